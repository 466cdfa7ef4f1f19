"""Which action a worker takes next: one at a time per server, many servers in parallel, and few slow ones at a time.

Only a hint of what to do: the journal says what may still be done, so a queue that is lost or filled twice harms nothing.
"""

import threading
import time
from collections import deque


class ActionQueue:
    """A queue of action ids that never gives out two of one server before the first is :meth:`done`. Thread-safe.

    :param slow_at_once: slow actions that are given out at the same time at most; a quick one overtakes those of its server that wait
    """

    def __init__(self, slow_at_once: int = 1) -> None:
        self._slow_at_once = slow_at_once
        self._slow: set[str] = set()
        self._condition = threading.Condition()
        self._waiting: dict[str, deque[str]] = {}
        self._ready: deque[str] = deque()
        self._running: dict[str, str] = {}
        self._known: set[str] = set()
        self._closed = False

    def add(self, server: str, action_id: str, *, slow: bool = False) -> None:
        """Queue an action of a server; one that waits or runs already is not added again."""
        with self._condition:
            if self._closed or action_id in self._known:
                return
            self._known.add(action_id)
            waiting = self._waiting.setdefault(server, deque())
            if slow:
                self._slow.add(action_id)
                waiting.append(action_id)
            else:
                waiting.insert(sum(other not in self._slow for other in waiting), action_id)
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
            self._known.discard(action_id)
            self._slow.discard(action_id)
            self._offer(server)
            self._condition.notify_all()

    def close(self) -> None:
        """Give out nothing more; who waits in :meth:`take` gets None. What is left stays ``received`` in the journal."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until nothing that was taken is running; False when something still is."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._running, timeout)

    def _find_ready(self) -> str | None:
        """The server that has waited longest for a worker and may have one."""
        slow_running = sum(action_id in self._slow for action_id in self._running.values())
        for server in self._ready:
            if slow_running < self._slow_at_once or self._waiting[server][0] not in self._slow:
                return server
        return None

    def _offer(self, server: str) -> None:
        if server in self._waiting and server not in self._running and server not in self._ready:
            self._ready.append(server)
