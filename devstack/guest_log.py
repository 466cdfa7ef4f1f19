"""What a test guest wrote on its serial lines, whatever it runs on."""

from __future__ import annotations

import re
from pathlib import Path

from devstack.kvm import READY_MARKER
from devstack.services import wait_until
from devstack.steps import StepFailed

PANIC_LINE = "Kernel panic - not syncing: NMI"
# The kernel repeats it at the end of its trace.
_PANIC = re.compile(rf"^(?!.*---\[ end).*{re.escape(PANIC_LINE)}", re.MULTILINE)
_NMI_COUNT = re.compile(r"^crashcart-nmi-count: (\d+)\s*$", re.MULTILINE)
_DUMP = re.compile(r"^crashcart-dump-begins\s*$", re.MULTILINE)
# Wherever in a line: a guest that was switched off in the middle of one leaves it without an end.
_READY = re.compile(rf"{READY_MARKER} (\w+) (\S+)\s*$", re.MULTILINE)
_PROBLEM = re.compile(r"^crashcart-guest-problem: .*$", re.MULTILINE)


class GuestLog:
    """The first line is what the guest's first process says, the console its kernel's."""

    def __init__(self, guest_name: str, directory: Path) -> None:
        self.serial = directory / "serial.log"
        self.console = directory / "console.log"
        self._guest_name = guest_name

    def make_anew(self) -> None:
        """Forget what was written before."""
        for log in (self.serial, self.console):
            log.unlink(missing_ok=True)
            log.touch(mode=0o600)

    def wait_ready(self, timeout: float = 60.0, boots: int = 1) -> None:
        """Wait until the guest's first process said for the `boots`th time that it is ready; raises StepFailed."""
        try:
            wait_until(lambda: self.count_boots() >= boots, timeout, f"guest {self._guest_name} to be ready")
        except TimeoutError as error:
            raise StepFailed(str(error), log=self.console, advice="read the guest's console") from error
        problems = _PROBLEM.findall(self.read_serial())
        if problems:
            raise StepFailed(f"guest {self._guest_name}: {problems[0]}", log=self.serial)

    def count_boots(self) -> int:
        """How often the guest got ready since its log was made anew."""
        return len(_READY.findall(self.read_serial()))

    def count_panics(self) -> int:
        """How often its kernel said that it panics because of an NMI."""
        return len(_PANIC.findall(_read(self.console)))

    def nmi_count(self) -> int:
        """NMIs that a surviving guest counted in /proc/interrupts since its last boot, as far as it said yet."""
        since_boot = self.read_serial().rpartition(READY_MARKER)[2]
        counts = _NMI_COUNT.findall(since_boot)
        return int(counts[-1]) if counts else 0

    def count_all_nmis(self) -> int:
        """Those that a surviving guest counted since its log was made anew, whatever became of each of its lives."""
        counted = (_NMI_COUNT.findall(life) for life in self.read_serial().split(READY_MARKER))
        return sum(int(counts[-1]) for counts in counted if counts)

    def count_dumps(self) -> int:
        """How often a crash kernel said that it begins to write a dump."""
        return len(_DUMP.findall(self.read_serial()))

    def read_serial(self) -> str:
        """All that the first process said."""
        return _read(self.serial)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
