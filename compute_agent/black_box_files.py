"""The files of black boxes: written whole or not at all, kept under a quota, read in pieces.

A box is a tar file named by its id: one file is a fifth of the price of a directory with four. Releases up to 1.1.1 made directories; those
that are there are read on. Ids and names of parts are checked against what this module itself makes, so nothing that is asked for from
outside ever becomes a path to anything else.
"""

import base64
import hashlib
import logging
import os
import re
import shutil
import tarfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from compute_agent.contract.events import BlackBoxPart
from compute_agent.contract.models import BlackBoxChunk

LOG = logging.getLogger(__name__)

PARTS = frozenset({"sample-before.json", "diagnostics-after.json", "state.json", "domain.xml", "console.log"})
LONGEST_CHUNK = 192 << 10
"""Bytes of a part in one piece: 256 KiB when they travel as base64."""
_ID = re.compile(r"[0-9a-f]{32}")
_BOX = re.compile(r"[0-9a-f]{32}(\.tar)?")
_UNFINISHED = ".unfinished"
_SHARE_AT_A_TIME = 32
"""Of the quota: how much of it is cleared when it is used up."""


class _Box(NamedTuple):
    """In the order in which they go."""

    modified_ns: int
    name: str
    size: int


class NoRoom(Exception):
    """The box is larger than the whole quota."""


class BlackBoxFiles:
    """Only one thread puts boxes; any may read them.

    :param quota: bytes of all boxes together; the oldest ones make room for new ones, a thirty-second of it at a time
    """

    def __init__(self, directory: Path, quota: int) -> None:
        self._directory = directory
        self._quota = quota
        self._used: int | None = None

    def put(self, black_box_id: str, parts: Mapping[str, bytes]) -> tuple[BlackBoxPart, ...]:
        """Keep a new box.

        :raises NoRoom: it would never fit.
        :raises OSError: it could not be written; nothing of it is left.
        """
        if not _ID.fullmatch(black_box_id) or not parts.keys() <= PARTS:
            raise ValueError(f"no name of a black box: {black_box_id}, {sorted(parts)}")
        box = _pack(parts)
        if len(box) > self._quota:
            raise NoRoom(f"{len(box)} bytes, the quota is {self._quota}")
        if self._used is None or self._used + len(box) > self._quota or not os.path.isdir(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._used = self._make_room(len(box))
        path = f"{self._directory}/{black_box_id}.tar"
        unfinished = f"{path}{_UNFINISHED}"
        try:
            with open(unfinished, "xb", opener=_open_private) as file:
                file.write(box)
            os.rename(unfinished, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise
        self._used += len(box)
        return tuple(
            BlackBoxPart(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in parts.items()
        )

    def read(self, black_box_id: str, part: str, offset: int) -> BlackBoxChunk:
        """A piece of one part from byte ``offset`` on; ``total`` None when there is no such part (any more)."""
        if not _ID.fullmatch(black_box_id) or part not in PARTS or offset < 0:
            return BlackBoxChunk(total=None)
        try:
            with self._open_part(black_box_id, part) as (file, total):
                file.seek(min(offset, total), os.SEEK_CUR)
                content = file.read(min(LONGEST_CHUNK, max(0, total - offset)))
        except (OSError, tarfile.TarError) as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                LOG.warning("part %s of black box %s cannot be read: %s", part, black_box_id, error)
            return BlackBoxChunk(total=None)
        return BlackBoxChunk(total=total, content=base64.b64encode(content).decode())

    def remove_unfinished(self) -> None:
        """At start: what a dead agent was writing."""
        for unfinished in self._directory.glob(f"*{_UNFINISHED}"):
            with suppress(OSError):
                _remove(unfinished)

    @contextmanager
    def _open_part(self, black_box_id: str, part: str) -> Iterator[tuple[BinaryIO, int]]:
        """A file that stands where the part begins, and how long that is.

        :raises FileNotFoundError: there is none.
        """
        box = self._directory / black_box_id
        if box.is_dir():
            with (box / part).open("rb") as file:
                yield file, os.fstat(file.fileno()).st_size
            return
        with box.with_suffix(".tar").open("rb") as file:
            while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
                kept = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")
                if kept.name == part:
                    yield file, kept.size
                    return
                if kept.size < 0:  # a binary number may be: what follows would be before it, again and again
                    raise tarfile.ReadError(f"part {kept.name!r} has {kept.size} bytes")
                file.seek(kept.size + _count_padding(kept.size), os.SEEK_CUR)
        raise FileNotFoundError(part)

    def _make_room(self, size: int) -> int:
        """Remove the oldest boxes if there is no room for ``size`` bytes more; returns how many bytes the others have. It looks at each
        file that is kept, tens of thousands perhaps, so it makes room for many more than one."""
        boxes = deque(sorted(self._list_boxes()))
        used = sum(box.size for box in boxes)
        if used + size <= self._quota:
            return used
        left = self._quota - max(size, self._quota // _SHARE_AT_A_TIME)
        removed = 0
        while boxes and used > left:
            oldest = boxes.popleft()
            with suppress(OSError):
                _remove(self._directory / oldest.name)
            used -= oldest.size
            removed += 1
            LOG.debug("black box %s was removed to make room for newer ones", Path(oldest.name).stem)
        LOG.info("the %d oldest black boxes were removed to make room for newer ones", removed)
        return used

    def _list_boxes(self) -> Iterator[_Box]:
        for entry in os.scandir(self._directory):
            if _BOX.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # somebody else removed it
                    yield _Box(entry.stat().st_mtime_ns, entry.name, _measure(Path(entry.path)) if entry.is_dir() else entry.stat().st_size)


def _measure(directory: Path) -> int:
    """Bytes of an older release's box."""
    return sum(file.stat().st_size for file in directory.iterdir())


def _remove(box: Path) -> None:
    if box.is_dir():
        shutil.rmtree(box)
    else:
        box.unlink()


def _pack(parts: Mapping[str, bytes]) -> bytes:
    """A tar file with these. A ``TarFile`` would fill it up to a multiple of ten KiB, of which most boxes have two."""
    packed = []
    for name, content in parts.items():
        part = tarfile.TarInfo(name)
        part.size, part.mode, part.mtime = len(content), 0o600, int(time.time())
        packed += [part.tobuf(tarfile.USTAR_FORMAT), content, bytes(_count_padding(len(content)))]
    return b"".join((*packed, bytes(2 * tarfile.BLOCKSIZE)))


def _count_padding(size: int) -> int:
    """Bytes to the end of its last block."""
    return -size % tarfile.BLOCKSIZE


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
