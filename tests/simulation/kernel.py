"""A seeded scheduler over virtual time: tasks of one thread, of which one runs until it sleeps or waits.

Tasks are greenlets, so production code blocks as deep inside a driver call as it likes. What is due at the same moment runs in an
order drawn from the seed. A process is a group of tasks that is killed or frozen together; a killed one runs not one line more of its own:
everything it could still touch refuses it.
"""

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from greenlet import GreenletExit, getcurrent, greenlet

START = datetime(2026, 1, 1, tzinfo=UTC)


class ProcessKilled(GreenletExit):
    """Ends a task whose process was killed; no BaseException handler of production code may survive it."""


class Process:
    """A group of tasks with one fate. In virtual seconds: none of its tasks runs (SIGSTOP) from ``frozen_since`` to ``frozen_until``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_since = self.frozen_until = 0.0
        self.tasks: dict[greenlet, None] = {}  # in the order of their beginning, so that a seed replays

    def check(self) -> None:
        """:raises ProcessKilled: nothing of a killed process may touch the world any more."""
        if not self.alive:
            raise ProcessKilled(self.name)


class Kernel:
    """Virtual time and the tasks in it."""

    def __init__(self, seed: str) -> None:
        self.time = 0.0
        self.history: list[str] = []
        self.failures: list[BaseException] = []
        self.on_fault: Callable[[str], None] = lambda fault: None
        """Told whenever chance does something to one message or call."""
        self._order = random.Random(f"{seed}/order")
        self._due: list[tuple[float, float, int, Callable[[], None]]] = []
        self._count = 0
        self._hub = getcurrent()
        self._doomed: list[greenlet] = []
        self._process_of: dict[greenlet, Process] = {}

    # Time

    def call_at(self, time: float, action: Callable[[], None], *, first: bool = False) -> None:
        """Run ``action`` at that virtual second; among those of one moment chance decides, except for ``first``."""
        self._count += 1
        heapq.heappush(self._due, (max(time, self.time), -1.0 if first else self._order.random(), self._count, action))

    def call_after(self, seconds: float, action: Callable[[], None]) -> None:
        self.call_at(self.time + seconds, action)

    def run_until(self, time: float) -> None:
        """Let everything happen that is due until then.

        :raises BaseException: the first that came out of a task: a task of ours never ends by an error.
        """
        assert getcurrent() is self._hub
        while self._due and self._due[0][0] <= time and not self.failures:
            moment, _, _, action = heapq.heappop(self._due)
            self.time = moment
            action()
            self._bury()
        if self.failures:
            raise self.failures[0]
        self.time = time

    def sleep(self, seconds: float) -> None:
        """From inside a task: let others run for that long."""
        task, process = getcurrent(), self.get_process()
        assert process is not None, "only tasks may sleep"
        self.call_at(self.time + seconds, lambda: self._switch(task))
        self._wait()
        process.check()

    # Tasks

    def spawn(self, process: Process, run: Callable[[], None]) -> None:
        """Begin a task of ``process`` at this moment."""

        def body() -> None:
            try:
                process.check()
                run()
            except ProcessKilled:
                pass
            except Exception as error:  # noqa: BLE001 -- kept for run_until, which raises it in the test
                self.failures.append(error)
            finally:
                process.tasks.pop(task, None)
                self._process_of.pop(task, None)

        task = greenlet(body, parent=self._hub)
        process.tasks[task] = None
        self._process_of[task] = process
        self.call_at(self.time, lambda: self._switch(task))

    def get_process(self) -> Process | None:
        """Whose task runs now; None outside of tasks."""
        return self._process_of.get(getcurrent())

    def kill(self, process: Process) -> None:
        """kill -9: from anywhere; does not return when called from a task of that process."""
        process.alive = False
        current = getcurrent()
        self._doomed += [task for task in process.tasks if task is not current]
        if current in process.tasks:
            raise ProcessKilled(process.name)

    def freeze(self, process: Process, seconds: float) -> None:
        """SIGSTOP now, SIGCONT after that long; takes effect where its tasks sleep or wait."""
        if process.frozen_until <= self.time:
            process.frozen_since = self.time
        process.frozen_until = max(process.frozen_until, self.time + seconds)

    def find_held_up(self, process: Process) -> float:
        """For how many seconds it has been frozen by now; 0 when it is not."""
        return self.time - process.frozen_since if process.frozen_until > self.time else 0.0

    def _switch(self, task: greenlet) -> None:
        if task.dead:
            return
        process = self._process_of[task]
        if process.frozen_until > self.time:
            self.call_at(process.frozen_until, lambda: self._switch(task))
            return
        task.switch()

    def _bury(self) -> None:
        while self._doomed:
            task = self._doomed.pop(0)
            if not task.dead:
                task.throw(ProcessKilled())

    def _wait(self) -> None:
        """Give the processor back until the task is woken."""
        self._hub.switch()

    def finish(self) -> None:
        """End the tasks of killed processes now."""
        self._bury()

    # History

    def note(self, who: str, text: str) -> None:
        """One line of the readable history."""
        self.history.append(f"{self.time:12.6f}  {who:<12} {text}")


class Event:
    """What a task waits for: like ``threading.Event``, in virtual time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._set = False
        self._waiters: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, []
        for wake in waiters:
            wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """:returns: whether it is set."""
        if self._set:
            return True
        kernel, task, woken = self._kernel, getcurrent(), False
        process = kernel.get_process()
        assert process is not None, "only tasks may wait"

        def wake() -> None:
            nonlocal woken
            if not woken:
                woken = True
                kernel.call_at(kernel.time, lambda: kernel._switch(task))

        self._waiters.append(wake)
        if timeout is not None:
            kernel.call_after(timeout, wake)
        kernel._wait()
        if wake in self._waiters:
            self._waiters.remove(wake)
        process.check()
        return self._set


class HostClock:
    """A machine's clocks: virtual time plus what its wall clock is wrong by. Implements ``contract.clock.Clock``."""

    def __init__(self, kernel: Kernel, offset: float = 0.0) -> None:
        self.kernel = kernel
        self.offset = offset
        self._settings = [(0.0, offset)]

    def step(self, by: float) -> None:
        """The wall clock is set, by that many seconds."""
        self.offset += by
        self._settings.append((self.kernel.time, self.offset))

    def list_virtual(self, moment: datetime) -> list[float]:
        """The virtual seconds at which this clock may have shown that moment: twice where it was set back."""
        shown = (moment - START).total_seconds()
        ends = [since for since, _ in self._settings[1:]] + [self.kernel.time]
        times = [(since, shown - offset, end) for (since, offset), end in zip(self._settings, ends, strict=True)]
        return [at for since, at, end in times if since <= at <= end]

    def now(self) -> datetime:
        return START + timedelta(seconds=self.kernel.time + self.offset)

    def monotonic(self) -> float:
        return self.kernel.time

    def boot(self) -> str:
        return "boot"
