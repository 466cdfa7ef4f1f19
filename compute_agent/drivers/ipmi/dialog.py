"""One conversation on its way: its login, its requests, its logout, and the error that it ends with. Never blocks."""

import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.protocol import Target
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown
from compute_agent.drivers.ipmi.exchange import Conversation, NoAnswer, Request, T
from compute_agent.drivers.ipmi.login import ask_for_privilege, name_refusal, where
from compute_agent.drivers.ipmi.packets import PacketSession
from compute_agent.drivers.ipmi.target import Endpoint, check_target

_PACKETS_AT_A_TIME = 16
"""Read of one BMC before the others have their turn: one that floods us delays nobody."""
_PACKET_BYTES = 4096
_LATE_FOR_ONCE = 0.1
"""The share of the limit that must be left for what is sent once: with less, its answer would be lost by our own impatience."""
_LAST_WORDS = 100
"""Requests of a conversation that goes on asking when its time is over: each is told so, and then it is ended."""
_LONGEST_PATIENCE = 4
"""The longest wait for a step of a login, in times of ``resend_after``; it doubles from a half, for a BMC that is slow."""


@dataclass(frozen=True)
class Surroundings:
    """What all conversations share. ``resend_after``: seconds after which a request without an answer is sent again."""

    clock: Clock
    selector: selectors.BaseSelector
    resend_after: float


class Dialog(Generic[T]):
    """Carries out one conversation within ``limit`` seconds, until ``deadline`` by the monotonic clock.

    Only :meth:`wait` may be called from any thread; all else from the I/O thread, which calls :meth:`begin`, then :meth:`on_packets` when
    there are packets and :meth:`on_time` when it is :attr:`due`, until :attr:`is_over`.

    Each login has a socket of its own, connected to the BMC: so nothing of an earlier session, and nothing that another machine sends, is
    ever read, and a closed port is told at once.
    """

    def __init__(
        self, target: Target, endpoint: Endpoint, conversation: Conversation[T], surroundings: Surroundings, deadline: float, limit: float
    ) -> None:
        self.target = target
        self.due = deadline
        self.is_over = False
        self._access = check_target(target)
        self._endpoint = endpoint
        self._conversation = conversation
        self._clock, self._selector = surroundings.clock, surroundings.selector
        self._deadline, self._limit = deadline, limit
        self._resend_after = surroundings.resend_after
        self._patience = self._resend_after / 2
        self._socket: socket.socket | None = None
        self._send_error: OSError | None = None
        self._session: PacketSession | None = None
        self._course = self._converse()
        self._request: Request | None = None
        self._asked_at = self._clock.monotonic()
        self._garbage = 0
        self._last_words = _LAST_WORDS
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._has_sent_once = False
        self._ended = threading.Event()
        self._result: T
        self._error: BaseException | None = None

    # ---- the caller's side

    def wait(self, seconds: float) -> T:
        """What the conversation returned or raised; after ``seconds`` the caller is let go, whatever the I/O thread does."""
        if not self._ended.wait(max(0.0, seconds)):
            raise self._abandon()
        if self._error is not None:
            raise self._error
        return self._result

    def _abandon(self) -> DriverError:
        with self._lock:
            self._is_abandoned = True
            return self._as_error("this agent was too busy to read its answer")

    # ---- the I/O thread's side

    def begin(self) -> None:
        """Start to log in; it is over at once when its turn has come too late."""
        self._asked_at = self._clock.monotonic()
        if self._asked_at >= self._deadline:
            self.on_time()
        elif not self.is_over:
            self._log_in()

    def on_packets(self) -> None:
        """Read what came, a bounded number of packets."""
        for _ in range(_PACKETS_AT_A_TIME):
            if self._socket is None or self._session is None:
                return
            try:
                packet = self._socket.recv(_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._on_network_error(error)
            else:
                self._read(self._session, packet)

    def on_time(self) -> None:
        """Send again what went unanswered, or end what took too long."""
        now = self._clock.monotonic()
        if self.is_over or now < self.due:
            return
        if now >= self._deadline or self._session is None:
            self.give_up(self._silence(now))
        elif self._request is not None:
            self._rest(self._resend_after)
            if not self._request.once:
                self._session.repeat_request()
        else:
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE * self._resend_after)
            if self._session.repeat_login():
                self._rest(self._patience)
                self._on_login_step(self._session)
            else:
                self._log_in()

    def give_up(self, reason: str) -> None:
        """End it as it stands: what is under way has got no answer, and nothing else is sent."""
        self._deadline = min(self._deadline, self._clock.monotonic())
        if self._request is not None:
            self._request = None
            self._advance(partial(self._course.throw, NoAnswer(reason)))
        if not self.is_over:
            self.fail(self._as_error(reason))

    def fail(self, error: BaseException) -> None:
        """End it with this error, which the conversation is not told."""
        self._end(error)
        self._course.close()
        self._conversation.close()

    def break_off(self, error: Exception) -> None:
        """End it because of an error that nobody thought of."""
        if not self.is_over:
            self.fail(self._as_error(f"the conversation with {where(self.target)} broke: {type(error).__name__}, see this agent's log"))

    def _read(self, session: PacketSession, packet: bytes) -> None:
        was_established = session.established
        response = session.receive(packet)
        if not session.has_advanced:
            self._garbage += 1
        elif not was_established:
            self._rest(self._patience)
            self._on_login_step(session)
        elif response is not None and self._request is not None:
            self._request = None
            self._advance(partial(self._course.send, response))

    # ---- logging in

    def _log_in(self) -> None:
        self._close_socket()
        self._send_error = None
        try:
            self._socket = self._open_socket()
        except OSError as error:
            self._on_network_error(error)
            return
        self._session = PacketSession(self._access, self._transmit)
        self._rest(self._patience)
        self._session.login()
        self._on_login_step(self._session)

    def _open_socket(self) -> socket.socket:
        opened = socket.socket(self._endpoint.family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.connect(self._endpoint.address)
            self._selector.register(opened, selectors.EVENT_READ, self)
        except OSError:
            opened.close()
            raise
        return opened

    def _on_login_step(self, session: PacketSession) -> None:
        if session.refusal is not None:
            self.fail(name_refusal(self.target, session.refusal))
        elif self._send_error is not None:
            self._on_network_error(self._send_error)
        elif session.established:
            self._advance(partial(next, self._course))

    def _converse(self) -> Conversation[T]:
        assert self._session is not None
        yield from ask_for_privilege(self.target, self._session.privlevel, self._access.may_degrade)
        return (yield from self._conversation)

    # ---- asking

    def _advance(self, step: Callable[[], Request]) -> None:
        """Let the conversation go on, until it waits for an answer or is over."""
        while not self.is_over:
            try:
                request = step()
            except StopIteration as stop:
                self._result = stop.value
                self._end(None)
            except NoAnswer as error:
                self._end(self._as_error(str(error)))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
                self._end(error)
            else:
                if self._clock.monotonic() < self._deadline - (_LATE_FOR_ONCE * self._limit if request.once else 0.0):
                    self._ask(request)
                    return
                step = self._refuse(request)

    def _refuse(self, request: Request) -> Callable[[], Request]:
        """There is no time for it: the conversation is told, or ended where a "no answer" would say that it was sent."""
        self._last_words -= 1
        text = f"{where(self.target)} was not asked for more: the {self._limit:.1f} s for all of it were over, or nearly so"
        if request.once or not self._last_words:
            self.fail(self._as_error(text))
        return partial(self._course.throw, NoAnswer(text))

    def _ask(self, request: Request) -> None:
        if self._session is None:
            return
        with self._lock:
            had_sent_once = self._has_sent_once
            self._has_sent_once = had_sent_once or request.once
            is_abandoned = self._is_abandoned
        if is_abandoned:
            self.fail(self._as_error("nobody waits for it"))
            return
        self._asked_at = self._clock.monotonic()
        self._garbage = 0
        self._send_error = None
        self._session.send_request(request)
        if request.once and self._send_error is not None:
            # The kernel did not take the packet. This is certain, unlike what becomes of one that it took.
            self._has_sent_once = had_sent_once
            self.fail(self._as_error(_name_network_error(self.target, self._send_error)))
            return
        self._request = request
        self._rest(self._resend_after)

    def _transmit(self, packet: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(packet)
        except OSError as error:
            self._send_error = error

    def _rest(self, seconds: float) -> None:
        self.due = min(self._deadline, self._clock.monotonic() + seconds)

    # ---- the ways it ends

    def _on_network_error(self, error: OSError) -> None:
        """The network says that nobody takes our packets. What was sent once may have been taken before: its answer is waited for."""
        if self._request is None:
            self.fail(self._as_error(_name_network_error(self.target, error)))
        elif not self._request.once:
            self.give_up(f"{where(self.target)} has stopped listening ({error.strerror}): it may be restarting")

    def _silence(self, now: float) -> str:
        if self._session is None:
            return f"{where(self.target)} was busy with other requests of ours, or silent, for all of {self._limit:.1f} s"
        text = f"no answer came from {where(self.target)} within {now - self._asked_at:.1f} s"
        if self._garbage:
            return f"{text}, but {self._garbage} packets that were garbage or answers to nothing that was asked"
        if self._request is None:
            return f"{text}: check address and port, that it can be reached from here, and that IPMI over LAN is switched on there"
        return text

    def _as_error(self, text: str) -> DriverError:
        """A "no", unless something was sent that is sent once: then nobody knows any more."""
        if self._has_sent_once:
            return OutcomeUnknown(self.target.server, text)
        return BackendUnavailable(self.target.server, text)

    def _end(self, error: BaseException | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._error = error
        self._request = None
        if self._session is not None and self._session.established:
            self._session.send_logout()
        self._close_socket()
        self._session = None
        self._ended.set()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def _name_network_error(target: Target, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens where {where(target)} should: check address and port, and that IPMI over LAN is switched on there"
    return f"{where(target)} cannot be reached: {error.strerror}"
