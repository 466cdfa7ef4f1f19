"""Which action a worker takes next: one at a time per server, many servers in parallel.

Only a hint of what to do: the journal says what may still be done, so a queue that is lost or filled twice harms nothing.
"""

import threading
import time
from collections import deque


class ActionQueue:
    """A queue of action ids that never gives out two of one server before the first is :meth:`done`. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: dict[str, deque[str]] = {}
        self._ready: deque[str] = deque()
        self._running: dict[str, str] = {}
        self._known: set[str] = set()
        self._closed = False

    def add(self, server: str, action_id: str) -> None:
        """Queue an action of a server; one that waits or runs already is not added again."""
        with self._condition:
            if self._closed or action_id in self._known:
                return
            self._known.add(action_id)
            self._waiting.setdefault(server, deque()).append(action_id)
            self._offer(server)

    def take(self, timeout: float | None) -> str | None:
        """The next action id, waiting up to ``timeout`` seconds for one (None: without end); None when there is none or it is closed."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while not self._ready and not self._closed:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._condition.wait(left)
            if self._closed:
                return None
            server = self._ready.popleft()
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

    def _offer(self, server: str) -> None:
        if server in self._waiting and server not in self._running and server not in self._ready:
            self._ready.append(server)
            self._condition.notify()
