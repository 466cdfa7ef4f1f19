"""The threads that publish: one sends the outbox, one the heartbeats, and each waits out a broker that is away."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from compute_agent.contract.outage import Outage
from compute_agent.contract.publisher import PublishFailed
from compute_agent.journal import JournalFull
from compute_agent.loops import Backoff, Loop
from compute_agent.reporter import Heartbeats, Reporter

_KEEP_ALIVE_INTERVAL = 3.0
"""Seconds between two heartbeats of a connection's."""
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 0.5
"""Seconds between tries to publish events: what a broker's return may cost the ending of an action."""
_LOOK_INTERVAL = 1.0
"""Seconds after which the reporter looks whether events that could wait have waited long enough. Nobody is woken for them: to wake a thread
costs as much as to journal an event."""
_RETRY_INTERVAL = 1.0
_LONGEST_HEARTBEAT_RETRY = 10.0
"""Seconds: each try reads all servers, and a broker in alarm takes no heartbeat however often it is tried."""
_HEARTBEAT_GAP = 1.0
"""Seconds between two heartbeats at least, however much changes."""


class Connection(Protocol):
    """What is used here of a publisher, beside what its reporter or heartbeats publish."""

    def keep_alive(self) -> bool: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Publishing:
    """Owns both threads and the connections that they publish over.

    :param publisher: what ``reporter`` publishes over
    :param heartbeat_publisher: what ``heartbeats`` publishes over
    :param heartbeat_interval: seconds between two heartbeats when nothing changes
    :param may_beat: whether this agent speaks for its host now
    :param on_fatal: told why nothing can be promised any more
    """

    def __init__(
        self,
        host: str,
        reporter: Reporter,
        publisher: Connection,
        heartbeats: Heartbeats,
        heartbeat_publisher: Connection,
        *,
        heartbeat_interval: float,
        may_beat: Callable[[], bool],
        on_fatal: Callable[[str], None],
    ) -> None:
        self._reporter = reporter
        self._publisher = publisher
        self._heartbeats = heartbeats
        self._heartbeat_publisher = heartbeat_publisher
        self._heartbeat_interval = heartbeat_interval
        self._may_beat = may_beat
        self._report_wanted = threading.Event()
        self._report_due = time.monotonic()
        self._lock = threading.Lock()
        self._heartbeat_wanted = threading.Event()
        self._events_wait = Outage(f"events of host {host} wait in the journal")
        self._heartbeats_wait = Outage(f"no heartbeats of host {host}")
        self._report_backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        self._heartbeat_backoff = Backoff(_RETRY_INTERVAL, _LONGEST_HEARTBEAT_RETRY)
        self._report_loop = Loop("reporter", self._report, on_fatal=on_fatal, wake=self.want_report)
        self._heartbeat_loop = Loop("heartbeats", self._beat, on_fatal=on_fatal, wake=self.want_heartbeat)

    def want_report(self, patience: float = 0.0) -> None:
        """There are events to send, which may wait for others as long as ``patience`` says. From any thread; it only wakes."""
        with self._lock:
            self._report_due = min(self._report_due, time.monotonic() + patience)
        if not patience:
            self._report_wanted.set()

    def want_heartbeat(self) -> None:
        """There is something to say before the next heartbeat is due. From any thread; it only wakes."""
        self._heartbeat_wanted.set()

    def start(self) -> None:
        self._report_loop.start()
        self._heartbeat_loop.start()

    def stop(self, timeout: float) -> bool:
        """End both threads, waiting ``timeout`` seconds at most for each; False when one is still in a step, with its connection."""
        # Not "and": both have to be told. One that still waits for a broker that does not answer keeps its connection to itself.
        return all([self._report_loop.stop(timeout), self._heartbeat_loop.stop(timeout)])

    def send_last(self) -> None:
        """After :meth:`stop`, in the caller's thread: what is left of the outbox, and a heartbeat that says ``stopping``.

        :raises PublishFailed: the rest waits in the journal.
        """
        while self._reporter.step():
            pass
        self._heartbeats.step(stopping=True)

    def abort(self) -> None:
        """End a publish that waits, and refuse any later one; from any thread, for good."""
        self._publisher.abort()
        self._heartbeat_publisher.abort()

    def close(self) -> None:
        """Close the connections, which no thread uses any more."""
        self._publisher.close()
        self._heartbeat_publisher.close()

    # One step of each thread

    def _report(self) -> None:
        self._report_wanted.wait(_LOOK_INTERVAL)
        # Before anything is read: what is committed from here on wakes again.
        self._report_wanted.clear()
        with self._lock:
            if time.monotonic() < self._report_due:
                return
            self._report_due = time.monotonic() + _KEEP_ALIVE_INTERVAL
        try:
            sent = False
            while self._reporter.step():
                sent = True
        except PublishFailed as error:
            self._events_wait.begin(error)
            self.want_report()
            self._report_loop.stopping.wait(self._report_backoff.take())
        except JournalFull:  # what was sent cannot be marked; the broker would take this side for dead all the same
            self._publisher.keep_alive()
            raise
        else:
            self._report_backoff.reset()
            self._events_wait.end()
            if not sent:  # else the broker has just heard of this side, and been listened to
                self._publisher.keep_alive()

    def _beat(self) -> None:
        if not self._may_beat():  # another agent may speak for this host by now
            self._heartbeat_loop.stopping.wait(_RETRY_INTERVAL)
            return
        self._heartbeat_wanted.clear()
        try:
            self._heartbeats.step()
        except PublishFailed as error:
            self._heartbeats_wait.begin(error)
            self._pause_heartbeats(self._heartbeat_backoff.take(), self._heartbeat_loop.stopping)
            return
        self._heartbeats_wait.end()
        self._heartbeat_backoff.reset()
        self._heartbeat_loop.stopping.wait(_HEARTBEAT_GAP)
        self._pause_heartbeats(self._heartbeat_interval - _HEARTBEAT_GAP, self._heartbeat_wanted)

    def _pause_heartbeats(self, pause: float, wake: threading.Event) -> None:
        """Wait, for ``pause`` seconds at most, until ``wake`` is set or the connection is lost: a new one says hello at once."""
        due = time.monotonic() + pause
        is_connected = self._heartbeat_publisher.keep_alive()
        while (left := due - time.monotonic()) > 0 and not wake.wait(min(_KEEP_ALIVE_INTERVAL, left)):
            if self._heartbeat_publisher.keep_alive() != is_connected:
                return
