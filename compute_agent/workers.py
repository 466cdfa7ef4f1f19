"""The threads that run actions. One that is stuck in a call that was given up is made up for: a frozen guest costs the others nothing.

A hypervisor may wait for a frozen guest without bound, and a thread in such a call cannot be ended. Frozen guests are what crash dumps are
asked for, so without others in their place a few of them would keep every later action of the host waiting until its deadline.
"""

import logging
import threading
from collections.abc import Callable

from compute_agent.action_queue import ActionQueue
from compute_agent.loops import Loop

LOG = logging.getLogger(__name__)


class Workers:
    """Take actions from the queue and run them.

    :param run: brings one action to its ending; may block without bound
    :param count: how many can work at any time
    """

    def __init__(self, queue: ActionQueue, run: Callable[[str], None], *, count: int, on_fatal: Callable[[str], None]) -> None:
        self._queue = queue
        self._run = run
        self._count = count
        self._on_fatal = on_fatal
        self._loops: list[Loop] = []
        self._lock = threading.Lock()
        self._stopping = False

    def start(self) -> None:
        self.make_up()

    def make_up(self) -> None:
        """As many threads as there are to be, and one more for each action that was given up and still keeps one. Those stay, idle, when
        its call comes back after all: there are never more than servers that hung at the same time."""
        with self._lock:
            missing = 0 if self._stopping else self._count + self._queue.count_given_up() - len(self._loops)
            if self._loops and missing > 0:
                LOG.warning("%d calls of the driver were given up and keep their threads: %d more take over", missing, missing)
            for _ in range(missing):
                loop = Loop(f"worker-{len(self._loops) + 1}", self._step, on_fatal=self._on_fatal)
                self._loops.append(loop)
                loop.start()

    def stop(self) -> None:
        """Let the actions at hand be the last ones; returns at once."""
        with self._lock:
            self._stopping = True
            for loop in self._loops:
                loop.stopping.set()

    def _step(self) -> None:
        action_id = self._queue.take(None)
        if action_id is None:
            return
        try:
            self._run(action_id)
        finally:
            self._queue.done(action_id)
