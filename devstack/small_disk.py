"""A directory on a small disk of its own, which can be filled up and freed again."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Self

from devstack.steps import StepFailed

_FILLER = ".filler"
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """A tmpfs of ``size`` bytes over ``directory``, which root alone may make. Only what is written to it while it is there is on it.

    :param directory: made where it is not there; must be empty, for what is in it would be hidden
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory.resolve()
        self.size = size

    @staticmethod
    def is_available() -> bool:
        """True where this process may mount: as root with CAP_SYS_ADMIN."""
        status = Path("/proc/self/status").read_text().splitlines()
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
        return os.geteuid() == 0 and bool(effective >> 21 & 1)

    def mount(self) -> None:
        """Raises StepFailed where that is not possible, or something is in the directory. Does nothing when it is mounted."""
        if self.is_mounted:
            return
        if not self.is_available():
            raise StepFailed("a small disk can only be made by root with CAP_SYS_ADMIN", advice="run as root, or without full disks")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(self.directory.iterdir()):
            raise StepFailed(f"{self.directory} is not empty: a disk over it would hide what is there", advice="use a fresh directory")
        options = f"size={self.size},mode=0700".encode()
        if _libc.mount(b"crashcart", os.fsencode(self.directory), b"tmpfs", 0, options) != 0:
            raise StepFailed(f"mounting a tmpfs on {self.directory}: {os.strerror(ctypes.get_errno())}", advice="run without full disks")

    def unmount(self) -> None:
        """Take it away with all that is on it; what still uses it keeps it until it ends."""
        if self.is_mounted:
            detach_mount(self.directory)

    @property
    def is_mounted(self) -> bool:
        return self.directory in list_mounts(self.directory)

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.directory).free

    def fill(self, leave: int = 0) -> None:
        """Take all but ``leave`` bytes: who needs more gets ENOSPC. What is freed meanwhile is taken by the next call only."""
        with (self.directory / _FILLER).open("ab") as file:
            wanted = self.free_bytes - leave
            if wanted > 0:
                os.posix_fallocate(file.fileno(), file.tell(), wanted)

    def free(self) -> None:
        """Give back what fill() took."""
        (self.directory / _FILLER).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()


def list_mounts(under: Path) -> list[Path]:
    """Mount points at or below a directory, those last that lie deepest."""
    fields = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [Path(os.fsdecode(field[4].encode().decode("unicode_escape").encode("latin-1"))) for field in fields]
    return sorted(place for place in places if place.is_relative_to(under.resolve()))


def detach_mount(place: Path) -> None:
    """Unmount, also what is in use; raises OSError."""
    if _libc.umount2(os.fsencode(place), _MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
