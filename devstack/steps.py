"""Print each set-up step with the time it took; say of a failing one what failed, where its log is, what to do."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_TAIL_LINES = 15


class StepFailed(Exception):
    """A set-up step failed in a way that the person at the terminal must hear about.

    `log` is the file to read (its last lines are printed), `advice` what to do about it.
    """

    def __init__(self, what: str, *, log: Path | None = None, advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.log = log
        self.advice = advice

    def explain(self) -> str:
        """The whole message for the terminal, with the end of the log."""
        lines = [f"devstack: FAILED: {self.what}"]
        if self.log is not None:
            lines.append(f"  log:        {self.log}")
        if self.advice:
            lines.append(f"  what to do: {self.advice}")
        lines += [f"  | {line}" for line in _read_tail(self.log)]
        return "\n".join(lines)


class NotInstalled(StepFailed):
    """What the step needs is not on this machine."""


class Steps:
    """Writes one line per finished step; safe to use from the threads that bring parts up side by side."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """One line without a time."""
        with self._lock:
            print(text, file=self._out or sys.stdout, flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Time what is inside; the line is printed when it ends, whether well or not."""
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.say(f"[{time.monotonic() - started:7.1f} s] {text}: FAILED")
            raise
        self.say(f"[{time.monotonic() - started:7.1f} s] {text}")


def _read_tail(path: Path | None) -> list[str]:
    if path is None or not path.is_file():
        return []
    return path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
