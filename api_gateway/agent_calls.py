"""Questions to agents that a request waits for, on a few threads of their own and never longer than a limit.

An RPC call's own timeout is not honoured while the connection to the broker is down (measured: a call with 5 s came back after 81 s), and a
broker in alarm holds it as well. So a request waits here by the clock, and the thread that is stuck in a call stays counted until the call
returns: there are never more of them. Once one is stuck, others are refused at once; only now and then one more tries.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from oslo_config import cfg

from api_gateway.cast_signing import create_signer
from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import BlackBoxChunk
from compute_agent.contract.signing import CastSigner

LOG = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_SECONDS = 5
"""After a call without an answer nobody asks that host for so long; while a call is stuck, nobody any host."""
_OWN_TIMEOUT = 0.9
"""The part of the limit that the call itself is given: where it honours that, it is not stuck and says so first."""
_SLOW = 0.5
"""A call that failed after this part of its limit was not refused but not answered."""


class NoAnswer(Exception):
    """The agent was not asked, or did not answer; the text says which and may be shown to the caller."""


class AgentCaller(Protocol):
    """What is asked of agents: part of ``contract.rpcapi.ComputeAgentAPI``, whose calls may block far longer than their timeout."""

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply: ...

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk: ...


class _Call(Generic[T]):
    """One question and, once it ``is_over``, what came of it."""

    def __init__(self, host: str, ask: Callable[[AgentCaller], T]) -> None:
        self.host = host
        self.ask = ask
        self.is_over = False
        self.is_overdue = False
        self._running = threading.Lock()  # a bare lock: an Event wakes its thread twice, once to find that the Event is still held
        self._running.acquire()
        self.answer: T | None = None
        self.error: Exception | None = None

    def finish(self) -> None:
        self.is_over = True
        self._running.release()

    def wait(self, seconds: float) -> bool:
        """Whether it was over by then."""
        return self._running.acquire(timeout=seconds)


class AgentCalls:
    """All calls of one worker process. Starts no thread before it is needed.

    :param create_caller: connects to nothing yet; called once, from the first call's thread, and again if it failed
    :param threads: how many calls there may be at a time
    :param limit: seconds that a request waits for an answer at most
    """

    def __init__(
        self,
        create_caller: Callable[[], AgentCaller],
        *,
        threads: int,
        limit: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._create_caller = create_caller
        self._most = threads
        self._limit = limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._creating = threading.Lock()
        self._caller: AgentCaller | None = None
        self._calls: queue.SimpleQueue[_Call[object]] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._overdue = 0
        self._next_try = 0.0
        self._silent_hosts: dict[str, float] = {}

    def get_diagnostics(self, host: str, server: str, *, history: bool = False) -> DiagnosticsReply:
        """:raises NoAnswer: at once, or at the latest when the limit has passed."""
        return self._call(host, lambda caller: caller.get_diagnostics(host, server, timeout=self._own_timeout, history=history))

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int) -> BlackBoxChunk:
        """:raises NoAnswer: as above."""
        return self._call(host, lambda caller: caller.get_black_box(host, black_box_id, part, offset=offset, timeout=self._own_timeout))

    @property
    def _own_timeout(self) -> float:
        return self._limit * _OWN_TIMEOUT

    def _call(self, host: str, ask: Callable[[AgentCaller], T]) -> T:
        call: _Call[T] = _Call(host, ask)
        self._admit(host)
        self._calls.put(call)  # type: ignore[arg-type]
        if not call.wait(self._limit):
            self._note_overdue(call)
        if call.is_overdue:
            raise NoAnswer(f"The agent of host {host} could not be asked within {self._limit:g} s: the message broker is away or in alarm.")
        if call.error is not None:
            raise NoAnswer(f"The agent of host {host} gave no answer.") from call.error
        return call.answer  # type: ignore[return-value]

    def _admit(self, host: str) -> None:
        """Take a thread for a call, or refuse it.

        :raises NoAnswer: nothing is asked.
        """
        now = self._monotonic()
        with self._lock:
            if self._overdue and now < self._next_try:
                raise NoAnswer("No agent can be asked: the message broker is away or in alarm.")
            if self._silent_hosts.get(host, now) > now:
                raise NoAnswer(f"The agent of host {host} did not answer a moment ago.")
            if self._busy >= self._most:
                raise NoAnswer(f"As many agents are being asked as may be at a time ({self._most}).")
            if self._overdue:
                self._next_try = now + PAUSE_SECONDS
            if self._threads <= self._busy:
                try:
                    threading.Thread(target=self._run, name=f"agent-call-{self._threads + 1}", daemon=True).start()
                except RuntimeError as error:
                    raise NoAnswer(f"No thread can be started to ask an agent: {error}.") from error
                self._threads += 1
            self._busy += 1

    def _note_overdue(self, call: _Call[T]) -> None:
        """Unless the answer came at the last moment."""
        with self._lock:
            if call.is_over:
                return
            call.is_overdue = True
            self._overdue += 1
            self._next_try = self._monotonic() + PAUSE_SECONDS
        LOG.warning("host %s: a call is stuck, the message broker is away or in alarm (%d calls)", call.host, self._overdue)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            begun = self._monotonic()
            try:
                call.answer = call.ask(self._get_caller())
            except Exception as error:  # noqa: BLE001 -- a call may raise anything, and the thread must live on; who asked is told
                call.error = error
                LOG.warning("host %s: a call failed: %r", call.host, error)
            self._finish(call, self._monotonic() - begun)

    def _finish(self, call: _Call[object], took: float) -> None:
        with self._lock:
            self._busy -= 1
            if call.is_overdue:
                self._overdue -= 1
            elif call.error is not None and took >= self._limit * _SLOW:
                now = self._monotonic()
                self._silent_hosts = {host: until for host, until in self._silent_hosts.items() if until > now}
                self._silent_hosts[call.host] = now + PAUSE_SECONDS
            call.finish()

    def _get_caller(self) -> AgentCaller:
        with self._creating:
            if self._caller is None:
                self._caller = self._create_caller()
            return self._caller


def create_agent_calls(conf: cfg.ConfigOpts, get_cap: Callable[[str], str] | None, clock: Clock) -> AgentCalls:
    """Over the RPC transport of ``conf``, which is made when the first question is asked: in a worker, never before a fork.

    :param get_cap: the highest RPC version that the agent of a host may be asked in; None: this release's own
    :raises KeyUnusable: the key of ``[signing]`` cannot be used.
    """
    signer = create_signer(conf, clock)
    return AgentCalls(
        lambda: _create_caller(conf, get_cap, signer),
        threads=conf.api.agent_call_threads,
        limit=conf.api.diagnostics_timeout,
    )


def _create_caller(conf: cfg.ConfigOpts, get_cap: Callable[[str], str] | None, signer: CastSigner | None) -> AgentCaller:
    # Here: the messaging libraries are large, and a worker that is never asked for diagnostics needs none of them.
    from compute_agent.contract.rpcapi import ComputeAgentAPI
    from compute_agent.contract.transport import create_rpc_transport

    return ComputeAgentAPI(create_rpc_transport(conf), get_cap, signer)
