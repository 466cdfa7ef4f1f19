"""Questions to agents that a request waits for, never longer than a limit.

The line that carries them never blocks who asks, whatever the broker does; here it is decided who may ask at all. There are never more
questions under way than a fixed number. Once the broker has not carried one, others are refused at once; only now and then one more tries.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from oslo_config import cfg

from api_gateway.cast_signing import create_signer
from api_gateway.config import create_process_name
from compute_agent.contract.calls import AgentQuestions
from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import BlackBoxChunk
from compute_agent.contract.question_line import BrokerAway, NoReply, QuestionLine
from compute_agent.contract.signing import CastSigner

LOG = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_SECONDS = 5
"""After a call without an answer nobody asks that host for so long; after one that the broker did not carry, nobody any host."""


class NoAnswer(Exception):
    """The agent was not asked, or did not answer; the text says which and may be shown to the caller."""


class AgentCaller(Protocol):
    """What is asked of agents: part of ``contract.calls.Calls``, each within its timeout."""

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply: ...

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk: ...


class AgentCalls:
    """All calls of one worker process; thread-safe.

    :param create_caller: connects to nothing yet; called once, by the first call, and again if it failed
    :param most: how many calls there may be at a time
    :param limit: seconds that a request waits for an answer at most
    """

    def __init__(
        self,
        create_caller: Callable[[], AgentCaller],
        *,
        most: int,
        limit: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._create_caller = create_caller
        self._most = most
        self._limit = limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._creating = threading.Lock()
        self._caller: AgentCaller | None = None
        self._busy = 0
        self._is_away = False
        self._next_try = 0.0
        self._silent_hosts: dict[str, float] = {}

    def get_diagnostics(self, host: str, server: str, *, history: bool = False) -> DiagnosticsReply:
        """:raises NoAnswer: at once, or at the latest when the limit has passed."""
        return self._call(host, lambda caller: caller.get_diagnostics(host, server, timeout=self._limit, history=history))

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int) -> BlackBoxChunk:
        """:raises NoAnswer: as above."""
        return self._call(host, lambda caller: caller.get_black_box(host, black_box_id, part, offset=offset, timeout=self._limit))

    def _call(self, host: str, ask: Callable[[AgentCaller], T]) -> T:
        self._admit(host)
        try:
            answer = ask(self._get_caller())
        except BrokerAway as error:
            self._note_away(host, error)
            raise NoAnswer(f"The agent of host {host} could not be asked: the message broker is away or in alarm.") from error
        except NoReply as error:
            self._note_silent(host)
            raise NoAnswer(f"The agent of host {host} gave no answer within {self._limit:g} s.") from error
        except Exception as error:
            LOG.warning("host %s: a call failed: %r", host, error)
            raise NoAnswer(f"The agent of host {host} gave no answer.") from error
        else:
            self._is_away = False
            return answer
        finally:
            with self._lock:
                self._busy -= 1

    def _admit(self, host: str) -> None:
        """Count a call, or refuse it.

        :raises NoAnswer: nothing is asked.
        """
        now = self._monotonic()
        with self._lock:
            if self._is_away and now < self._next_try:
                raise NoAnswer("No agent can be asked: the message broker is away or in alarm.")
            if self._silent_hosts.get(host, now) > now:
                raise NoAnswer(f"The agent of host {host} did not answer a moment ago.")
            if self._busy >= self._most:
                raise NoAnswer(f"As many agents are being asked as may be at a time ({self._most}).")
            if self._is_away:
                self._next_try = now + PAUSE_SECONDS
            self._busy += 1

    def _note_away(self, host: str, error: BrokerAway) -> None:
        LOG.warning("host %s: a call was not carried, the message broker is away or in alarm: %s", host, error)
        with self._lock:
            self._is_away = True
            self._next_try = self._monotonic() + PAUSE_SECONDS

    def _note_silent(self, host: str) -> None:
        LOG.warning("host %s: a call has had no answer", host)
        now = self._monotonic()
        with self._lock:
            self._silent_hosts = {host: until for host, until in self._silent_hosts.items() if until > now}
            self._silent_hosts[host] = now + PAUSE_SECONDS

    def _get_caller(self) -> AgentCaller:
        with self._creating:
            if self._caller is None:
                self._caller = self._create_caller()
            return self._caller


def create_agent_calls(conf: cfg.ConfigOpts, get_cap: Callable[[str], str] | None, clock: Clock) -> AgentCalls:
    """Over a line to the broker of ``conf``, which is made when the first question is asked: in a worker, never before a fork.

    :param get_cap: the highest RPC version that the agent of a host may be asked in; None: this release's own
    :raises KeyUnusable: the key of ``[signing]`` cannot be used.
    """
    signer = create_signer(conf, clock)
    return AgentCalls(
        lambda: _create_caller(conf, get_cap, signer),
        most=conf.api.agent_call_threads,
        limit=conf.api.diagnostics_timeout,
    )


def _create_caller(conf: cfg.ConfigOpts, get_cap: Callable[[str], str] | None, signer: CastSigner | None) -> AgentCaller:
    # Here: the libraries whose options are needed are large, and a worker that is never asked for diagnostics needs none of them.
    from compute_agent.contract.broker import BrokerAddress, find_tls
    from compute_agent.contract.transport import register_messaging_options

    register_messaging_options(conf)
    address = BrokerAddress(conf.transport_url, name=create_process_name("questions"), tls=find_tls(conf))
    return AgentQuestions(QuestionLine(address.open_link, exchange=conf.control_exchange), get_cap, signer)
