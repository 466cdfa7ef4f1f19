"""The files of black boxes: written whole or not at all, kept under a quota, read in pieces.

A box is a directory named by its id with a file per part. Ids and names of parts are checked against what this module itself makes, so
nothing that is asked for from outside ever becomes a path to anything else.
"""

import base64
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from compute_agent.contract.events import BlackBoxPart
from compute_agent.contract.models import BlackBoxChunk

LOG = logging.getLogger(__name__)

PARTS = frozenset({"sample-before.json", "diagnostics-after.json", "state.json", "domain.xml", "console.log"})
LONGEST_CHUNK = 192 << 10
"""Bytes of a part in one piece: 256 KiB when they travel as base64."""
_ID = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = ".unfinished"


class NoRoom(Exception):
    """The box is larger than the whole quota."""


class BlackBoxFiles:
    """Only one thread puts boxes; any may read them.

    :param quota: bytes of all boxes together; the oldest ones make room for a new one
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
        size = sum(map(len, parts.values()))
        if size > self._quota:
            raise NoRoom(f"{size} bytes, the quota is {self._quota}")
        if self._used is None or self._used + size > self._quota or not os.path.isdir(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._used = self._make_room(self._quota - size)
        # In text: each path of pathlib's costs more than the call that it is for.
        box = f"{self._directory}/{black_box_id}"
        unfinished = f"{box}{_UNFINISHED}"
        try:
            os.mkdir(unfinished, 0o700)
            for name, content in parts.items():
                with open(f"{unfinished}/{name}", "xb", opener=_open_private) as file:
                    file.write(content)
            os.rename(unfinished, box)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._used += size
        return tuple(
            BlackBoxPart(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in parts.items()
        )

    def read(self, black_box_id: str, part: str, offset: int) -> BlackBoxChunk:
        """A piece of one part from byte ``offset`` on; ``total`` None when there is no such part (any more)."""
        if not _ID.fullmatch(black_box_id) or part not in PARTS or offset < 0:
            return BlackBoxChunk(total=None)
        try:
            with (self._directory / black_box_id / part).open("rb") as file:
                total = os.fstat(file.fileno()).st_size
                file.seek(min(offset, total))
                content = file.read(LONGEST_CHUNK)
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                LOG.warning("part %s of black box %s cannot be read: %s", part, black_box_id, error)
            return BlackBoxChunk(total=None)
        return BlackBoxChunk(total=total, content=base64.b64encode(content).decode())

    def remove_unfinished(self) -> None:
        """At start: what a dead agent was writing."""
        for unfinished in self._directory.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _make_room(self, left: int) -> int:
        """Remove the oldest boxes until ``left`` bytes are enough for the others; returns how many these have. It looks at each file that
        is kept, so it is called when there may be too many."""
        boxes = sorted((box for box in self._directory.iterdir() if _ID.fullmatch(box.name)), key=lambda box: box.stat().st_mtime_ns)
        sizes = {box: sum(file.stat().st_size for file in box.iterdir()) for box in boxes}
        used = sum(sizes.values())
        while boxes and used > left:
            oldest = boxes.pop(0)
            with suppress(OSError):
                shutil.rmtree(oldest)
            used -= sizes[oldest]
            LOG.info("black box %s was removed to make room for a newer one", oldest.name)
        return used


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
