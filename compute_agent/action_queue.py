"""Which action a worker takes next: one at a time per server, many servers in parallel, the urgent first, few of those that take long.

Only a hint of what to do: the journal says what may still be done, so a queue that is lost or filled twice harms nothing.
"""

import threading
import time
from collections import Counter, deque
from enum import IntEnum


class Turn(IntEnum):
    """Who comes first. A crash dump waits for no change and no reading, and neither of them for a dump of a whole memory."""

    ACT = 0
    CHANGE = 1
    READ = 2
    SLOW = 3
    """Takes many minutes, perhaps: only few at a time, so that they never keep all workers from the others."""


class ActionQueue:
    """A queue of action ids that never gives out two of one server before the first is :meth:`done`. Thread-safe.

    :param slow_at_once: slow actions that are given out at the same time at most
    :param changes_at_once: the same of changes: each waits for a guest that may hang, and they must not keep all workers either
    """

    def __init__(self, slow_at_once: int = 1, changes_at_once: int = 4) -> None:
        self._at_once = {Turn.SLOW: slow_at_once, Turn.CHANGE: changes_at_once}
        self._turns: dict[str, Turn] = {}
        lock = threading.Lock()
        self._condition = threading.Condition(lock)
        self._idle = threading.Condition(lock)
        self._waiting: dict[str, deque[str]] = {}
        self._ready: deque[str] = deque()
        self._running: dict[str, str] = {}
        self._given_up: set[str] = set()
        self._closed = False

    def add(self, server: str, action_id: str, turn: Turn = Turn.ACT) -> None:
        """Queue an action of a server, before those that wait for a later turn; one that waits or runs already is not added again."""
        with self._condition:
            if self._closed or action_id in self._turns:
                return
            self._turns[action_id] = turn
            waiting = self._waiting.setdefault(server, deque())
            waiting.insert(sum(self._turns[other] <= turn for other in waiting), action_id)
            self._offer(server)
            self._condition.notify()

    def take(self, timeout: float | None) -> str | None:
        """The next action id, waiting up to ``timeout`` seconds for one (None: without end); None when there is none or it is closed."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while (server := self._find_ready()) is None and not self._closed:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._condition.wait(left)
            if self._closed or server is None:
                return None
            self._ready.remove(server)
            action_id = self._waiting[server].popleft()
            if not self._waiting[server]:
                del self._waiting[server]
            self._running[server] = action_id
            return action_id

    def done(self, action_id: str) -> None:
        """The taken action is over: its server's next one may be taken."""
        with self._condition:
            server = next((server for server, running in self._running.items() if running == action_id), None)
            if server is None:
                return
            del self._running[server]
            del self._turns[action_id]
            self._given_up.discard(action_id)
            self._offer(server)
            self._tell_freed()

    def give_up(self, action_id: str) -> None:
        """The taken action has its ending, and its call has not come back: its server goes on waiting, nobody else does for its turn."""
        with self._condition:
            if action_id in self._running.values():
                self._given_up.add(action_id)
                self._tell_freed()

    def count_given_up(self) -> int:
        """How many of those there are, each with a thread of its own."""
        with self._condition:
            return len(self._given_up)

    def close(self) -> None:
        """Give out nothing more; who waits in :meth:`take` gets None. What is left stays ``received`` in the journal."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until nothing that was taken and not given up is running; False when something still is."""
        with self._condition:
            return self._idle.wait_for(lambda: self._given_up.issuperset(self._running.values()), timeout)

    def _tell_freed(self) -> None:
        """A turn is free, and perhaps a server: that is work for two at most, and waking the others would cost more than an action does."""
        if self._ready:
            self._condition.notify(2)
        self._idle.notify_all()

    def _find_ready(self) -> str | None:
        """Of the servers whose next action may be taken the one with the most urgent; of those the one that has waited longest."""
        running = Counter(self._turns[action_id] for action_id in self._running.values() if action_id not in self._given_up)
        full = {turn for turn, at_once in self._at_once.items() if running[turn] >= at_once}
        turns = {server: self._turns[self._waiting[server][0]] for server in self._ready}
        return min((server for server in self._ready if turns[server] not in full), key=turns.__getitem__, default=None)

    def _offer(self, server: str) -> None:
        if server in self._waiting and server not in self._running and server not in self._ready:
            self._ready.append(server)
