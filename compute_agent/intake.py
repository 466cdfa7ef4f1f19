"""Takes actions in: first the host's lock, then the RPC server, and never the second without the first."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from compute_agent.contract.broker import BROKER_ERRORS, HEARTBEAT
from compute_agent.host_lock import HostLock, HostTaken
from compute_agent.journal import JournalFull
from compute_agent.loops import Backoff, Loop, run_bounded

LOG = logging.getLogger(__name__)

FIRST_PATIENCE = 3.0
"""Seconds that a lock may be held by somebody else at the start: a killed predecessor's connection takes a moment to go away."""
GHOST_PATIENCE = 3.0 * HEARTBEAT
"""Seconds after the loss of the lock in which whoever holds it may be our own lost connection, which the broker has not missed yet."""
_RETRY_INTERVAL = 1.0
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 0.5
"""Seconds between tries to reach a broker that is away, or to take a lock that somebody still holds: what their end may cost an action."""
_KEEP_SLICE = 1.0
_STOP_BOUND = 5.0


class RpcServer(Protocol):
    """What is used of oslo.messaging's server."""

    def start(self) -> Any: ...

    def stop(self) -> Any: ...

    def wait(self) -> Any: ...


class Intake:
    """Holds the lock and runs the RPC server on a thread of its own, so that a broker that is away delays nobody.

    The RPC server lives as long as the lock is held: one that went on without it would take actions away from whoever holds it now.
    What comes before it may have to wait for room on the journal's disk; the lock stays in hand meanwhile.

    :param create_server: makes the RPC server; called each time that the lock was taken
    :param on_held: called when the lock is held for the first time, before the server starts; again after :class:`JournalFull`
    :param on_fatal: told why this agent must not go on
    """

    def __init__(
        self,
        lock: HostLock,
        create_server: Callable[[], RpcServer],
        *,
        on_held: Callable[[], None],
        on_fatal: Callable[[str], None],
        first_patience: float = FIRST_PATIENCE,
        ghost_patience: float = GHOST_PATIENCE,
    ) -> None:
        self._lock = lock
        self._create_server = create_server
        self._on_held = on_held
        self._on_fatal = on_fatal
        self._patience = first_patience
        self._ghost_patience = ghost_patience
        self._taken_since: float | None = None
        self._held = False
        self._was_held = False
        self._is_open = False
        self._refused = False
        self._away = False
        self._retries = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        self._gate = threading.Lock()
        self._closed = False
        self._server: RpcServer | None = None
        self._loop = Loop("intake", self._step, on_fatal=on_fatal)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Take nothing in any more; what has been acknowledged is journalled first. Bounded also when the broker is away.

        The lock is still held: nobody else may begin to serve this host before :meth:`release`.
        """
        with self._gate:
            self._closed = True
        self._end_server()

    def release(self) -> None:
        """Let go of the lock; the last thing of an ordered stop."""
        if self._loop.stop(_STOP_BOUND):
            self._lock.drop()

    @property
    def is_held(self) -> bool:
        """Whether this agent has the lock, as far as it knows, and with it the right to speak for its host."""
        return self._held

    def _step(self) -> None:
        if self._refused:
            self._loop.stopping.wait(_RETRY_INTERVAL)
        elif not self._held:
            self._acquire()
        else:
            if not self._is_open:
                self._open()
            self._keep()

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except HostTaken as error:
            self._note_taken(error)
            return
        except BROKER_ERRORS as error:
            if not self._away:
                LOG.warning("the broker is away, no actions are taken in until it is back: %r", error)
            self._away = True
            self._taken_since = None  # patience is counted while the broker is there, not across an outage
            self._loop.stopping.wait(self._retries.take())
            return
        self._retries.reset()
        self._held, self._away, self._taken_since = True, False, None
        self._patience = self._ghost_patience
        LOG.info("the lock of this host is held")

    def _open(self) -> None:
        """What follows once the lock is held. While the journal has no room for it, it is tried again after each slice of keeping."""
        if not self._was_held:
            try:
                self._on_held()
            except JournalFull as error:  # which the journal says once
                LOG.debug("nothing is taken in before the journal has room: %s", error)
                return
            except BaseException:
                self._let_go()
                raise
            self._was_held = True
        self._is_open = True
        with self._gate:
            if self._closed:
                return
            self._server = server = self._create_server()
        try:
            server.start()
        except Exception:
            # An agent that holds the lock and takes nothing in would look healthy and be deaf: let go and begin anew.
            with self._gate:
                self._server = None
            self._let_go()
            raise
        LOG.info("actions are taken in")

    def _let_go(self) -> None:
        self._held = self._is_open = False  # first: from here on the endpoint drops what still comes
        self._lock.drop()

    def _keep(self) -> None:
        try:
            self._lock.keep(_KEEP_SLICE)
        except BROKER_ERRORS as error:
            LOG.warning("the lock of this host is lost, nothing is taken in until it is held again: %r", error)
            self._let_go()
            self._end_server()

    def _end_server(self) -> None:
        with self._gate:
            server, self._server = self._server, None
        if server is not None:
            run_bounded("RPC server's stop", lambda: _stop_server(server), _STOP_BOUND)

    def _note_taken(self, error: HostTaken) -> None:
        now = time.monotonic()
        if self._taken_since is None:
            self._taken_since = now
        if now - self._taken_since < self._patience:
            self._loop.stopping.wait(self._retries.take())
            return
        self._refused = True
        self._on_fatal(str(error))


def _stop_server(server: RpcServer) -> None:
    server.stop()
    server.wait()
