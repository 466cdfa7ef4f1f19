"""Write initramfs archives (cpio, "newc") without needing root or a staging directory."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


@dataclass
class Initramfs:
    """Files by their path in the guest; parents are made as needed."""

    _entries: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Add one file under an absolute path."""
        name = path.lstrip("/")
        for parent in reversed(PurePosixPath(name).parents):
            if str(parent) != ".":
                self.add_directory(str(parent))
        self._entries[name] = (stat.S_IFREG | (0o755 if executable else 0o644), content)

    def add_directory(self, path: str) -> None:
        """Add an empty directory."""
        self._entries.setdefault(path.lstrip("/"), (stat.S_IFDIR | 0o755, b""))

    def add_program(self, path: str, program: Path) -> None:
        """Add a program of this machine with every shared library that it needs, at the same paths."""
        self.add(path, program.read_bytes(), executable=True)
        for library in _list_libraries(program):
            self.add(str(library), library.read_bytes(), executable=True)

    def write(self, path: Path) -> None:
        """Write the archive, uncompressed: decompressing costs an emulated guest more than reading."""
        with path.open("wb") as file:
            for number, (name, (mode, content)) in enumerate(self._entries.items(), start=1):
                file.writelines(_encode(name, mode, content, number))
            file.writelines(_encode("TRAILER!!!", 0, b"", 0))


def _encode(name: str, mode: int, content: bytes, inode: int) -> Iterable[bytes]:
    encoded = name.encode() + b"\0"
    fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    yield header + encoded
    yield b"\0" * (-(len(header) + len(encoded)) % 4)
    yield content
    yield b"\0" * (-len(content) % 4)


def _list_libraries(program: Path) -> list[Path]:
    """What ldd says, the dynamic loader included; empty for a static program."""
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    words = (word for line in listing.stdout.splitlines() for word in line.split())
    return sorted({Path(word) for word in words if word.startswith("/")})
