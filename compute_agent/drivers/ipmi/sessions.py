"""Conversations with all BMCs of this process, on one I/O thread: one for each caller at a time, and none waits for another's BMC."""

import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.protocol import Target
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi.dialog import Dialog, Surroundings
from compute_agent.drivers.ipmi.exchange import Conversation, T
from compute_agent.drivers.ipmi.target import resolve

LOG = logging.getLogger(__name__)

_GRACE_SECONDS = 0.15
"""What the I/O thread has to end a conversation after its limit, before the caller is let go without it."""
_STOPPING = "this agent is stopping"


class Sessions:
    """Carries out conversations, each in a session of its own: log in, ask, log out.

    A BMC has one session with us at a time; conversations with the same one take turns. ``resend_after``: seconds after which a request
    that may be repeated is sent again while no answer comes. The thread starts with the first conversation and ends with :meth:`close`.
    """

    def __init__(self, clock: Clock, resend_after: float = 1.0) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._orders: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._surroundings = Surroundings(clock, self._selector, resend_after)
        self._lanes: dict[tuple[str, int], deque[Dialog[Any]]] = {}

    def run(self, target: Target, conversation: Conversation[T], limit: float) -> T:
        """Carry out the conversation and return its result. Any thread may call it, and is blocked for ``limit`` seconds at most.

        ``NoAnswer`` is thrown into the conversation when the limit has run out, or the BMC is known to be gone; where the conversation lets
        it pass it becomes one of these. A request with ``once`` is put on the wire a single time, and not when there would be no time for
        its answer.

        :raises BackendUnavailable: no session could be opened, or what may be repeated got no answer; nothing was sent once.
        :raises OutcomeUnknown: what is sent once was, and got no answer that can be believed.
        :raises Exception: whatever else the conversation raised.
        """
        deadline = self._clock.monotonic() + limit
        dialog = Dialog(target, resolve(target), conversation, self._surroundings, deadline, limit)
        self._order(lambda: self._admit(dialog), target)
        return dialog.wait(deadline + _GRACE_SECONDS - self._clock.monotonic())

    def give_up(self, target: Target, reason: str) -> None:
        """Let all conversations with this target end at once, those that wait for their turn too. Returns before they have.

        Those with the same BMC by another target, which has other credentials since a reload, say, go on.
        """
        with self._lock:
            if self._thread is None or self._is_closed:
                return
            self._orders.append(lambda: self._end((dialog for dialog in self._list_dialogs() if dialog.target == target), reason))
            self._wake()

    def close(self) -> None:
        """End every conversation, the thread, and all sockets; whatever is run later raises ``BackendUnavailable``. May be repeated."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            thread = self._thread
        if was_closed:
            return
        self._wake()
        if thread is not None:
            thread.join()
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _order(self, order: Callable[[], None], target: Target) -> None:
        with self._lock:
            if self._is_closed:
                raise BackendUnavailable(target.server, _STOPPING)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="ipmi", daemon=True)
                self._thread.start()
            self._orders.append(order)
            self._wake()

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            pass  # it has been woken often enough

    # ---- the I/O thread

    def _work(self) -> None:
        try:
            while not self._is_closed:
                self._turn()
        finally:
            while self._orders:
                self._orders.popleft()()
            self._end(self._list_dialogs(), _STOPPING)

    def _turn(self) -> None:
        """Wait for whatever comes first, and let each conversation that it concerns go on."""
        for key, _ in self._selector.select(self._seconds_to_next()):
            if key.data is None:
                self._drain()
            else:
                self._touch(key.data, key.data.on_packets)
        while self._orders:
            self._orders.popleft()()
        now = self._clock.monotonic()
        for dialog in [dialog for dialog in self._list_dialogs() if dialog.due <= now]:
            self._touch(dialog, dialog.on_time)

    def _seconds_to_next(self) -> float | None:
        if self._orders:
            return 0.0
        due = min((dialog.due for dialog in self._list_dialogs()), default=None)
        return None if due is None else max(0.0, due - self._clock.monotonic())

    def _list_dialogs(self) -> Iterator[Dialog[Any]]:
        return (dialog for lane in self._lanes.values() for dialog in lane)

    def _drain(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _admit(self, dialog: Dialog[Any]) -> None:
        lane = self._lanes.setdefault(_key(dialog.target), deque())
        lane.append(dialog)
        if len(lane) == 1:
            self._touch(dialog, dialog.begin)

    def _touch(self, dialog: Dialog[Any], step: Callable[[], None]) -> None:
        """Let one conversation go on. What goes wrong in it ends it, and nothing else."""
        try:
            step()
        except Exception as error:
            LOG.exception("A conversation with the BMC of server %s broke", dialog.target.server)
            dialog.break_off(error)
        if dialog.is_over:
            self._leave(dialog)

    def _leave(self, dialog: Dialog[Any]) -> None:
        key = _key(dialog.target)
        lane = self._lanes.get(key)
        if lane is None or dialog not in lane:
            return
        had_its_turn = lane[0] is dialog
        lane.remove(dialog)
        if not lane:
            del self._lanes[key]
        elif had_its_turn:
            following = lane[0]
            self._orders.append(lambda: self._touch(following, following.begin))

    def _end(self, dialogs: Iterable[Dialog[Any]], reason: str) -> None:
        """The last of each lane first: none of them gets its turn meanwhile."""
        for dialog in reversed(list(dialogs)):
            self._touch(dialog, partial(dialog.give_up, reason))


def _key(target: Target) -> tuple[str, int]:
    return target.address, target.port
