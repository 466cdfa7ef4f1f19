"""What was read from files, read again when they change: for files that an operator edits while the gateway runs."""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 1.0

T = TypeVar("T")
Signature = tuple[tuple[str, int, int, int] | tuple[str], ...]


class Unreadable(Exception):
    """A file that must be read cannot be, or does not say what it should; the text names it and says what to do."""


class Reloaded(Generic[T]):
    """The newest good content of some files.

    Looks for changes at most once a second, on the thread that asks. New content that cannot be used is logged once and the
    old one stays in force: a slip of the editor must neither lock everybody out nor let anybody in.
    """

    def __init__(self, load: Callable[[], T], list_paths: Callable[[], Iterable[str]], clock: Clock) -> None:
        """Read for the first time.

        :raises Unreadable: from ``load``.
        """
        self._load = load
        self._list_paths = list_paths
        self._clock = clock
        self._lock = threading.Lock()
        self._signature = _sign(list_paths())  # taken before reading: what changes meanwhile is noticed at the next look
        self._looked_at = clock.monotonic()
        self._content = load()

    def get(self) -> T:
        if self._clock.monotonic() - self._looked_at >= LOOK_EVERY_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._looked_at = self._clock.monotonic()
                self._look()
            finally:
                self._lock.release()
        return self._content

    def _look(self) -> None:
        signature = _sign(self._list_paths())
        if signature == self._signature:
            return
        self._signature = signature
        names = ", ".join(entry[0] for entry in signature) or "files"
        try:
            self._content = self._load()
        except Unreadable as error:
            LOG.error("%s changed and cannot be used, what was read before stays in force: %s", names, error)
        else:
            LOG.info("%s changed and took effect", names)


def _sign(paths: Iterable[str]) -> Signature:
    return tuple(_sign_file(path) for path in paths)


def _sign_file(path: str) -> tuple[str, int, int, int] | tuple[str]:
    try:
        status = os.stat(path)
    except OSError:
        return (path,)
    return (path, status.st_mtime_ns, status.st_size, status.st_ino)
