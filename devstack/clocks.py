"""A wall clock that is wrong, and may jump, for the processes that are started under it; what measures spans stays right."""

from __future__ import annotations

import struct
from pathlib import Path

from devstack.shared_objects import ensure_shared_object

_SOURCE = Path(__file__).parent / "clock_offset.c"


class ClockOffset:
    """Processes with `environment` see the wall clock moved by `seconds`, also when that changes while they run.

    CLOCK_MONOTONIC, sleeps, time-outs and file times are not touched. (libfaketime 0.9.10 cannot be used for it: under it
    ``clock_nanosleep`` until a time of the monotonic clock, which is Python's ``time.sleep``, fails with EINVAL.)

    :param path: the file that holds the offset; it must stay while such processes run
    :raises StepFailed: what is preloaded could not be built.
    """

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self._path = path.resolve()
        self._library = ensure_shared_object("clock_offset", [_SOURCE], advice="is gcc installed? devstack/demo installs what is missing")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._path.write_bytes(struct.pack("=d", 0.0))
        self.seconds = seconds

    @property
    def environment(self) -> dict[str, str]:
        """To be added to a process's own; its children inherit it."""
        return {"LD_PRELOAD": str(self._library), "CRASHCART_CLOCK_OFFSET": str(self._path)}

    @property
    def seconds(self) -> float:
        """By how much the clock is ahead; negative: behind."""
        value: float
        (value,) = struct.unpack("=d", self._path.read_bytes())
        return value

    @seconds.setter
    def seconds(self, value: float) -> None:
        with self._path.open("r+b") as file:  # in place: running processes have this very file in their memory
            file.write(struct.pack("=d", value))

    def reset(self) -> None:
        """As in the beginning: right."""
        self.seconds = 0.0
