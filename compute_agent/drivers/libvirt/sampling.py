"""Calls that read all domains at once, and must not wait for one whose QEMU answers nobody.

libvirt waits for QEMU's answer for ever. Asked not to wait for busy domains it still begins to ask one that froze since. Such a call is
left alone on its thread, where it keeps that domain busy: every later one passes the domain by, so that a frozen QEMU holds one thread.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from compute_agent.drivers.errors import BackendUnavailable

T = TypeVar("T")

_LONGEST_READ = 5.0
_MOST_STUCK = 4


class BoundedReads(Generic[T]):
    """Runs ``read`` and gives up waiting for it after 5 s; called by one thread at a time."""

    def __init__(self, read: Callable[[], Sequence[T]]) -> None:
        self._read = read
        self._stuck: list[_Read[T]] = []

    def read(self) -> Sequence[T]:
        """What ``read`` returned, at its first try or, when one froze meanwhile, at the second.

        :raises DriverError: what it raised.
        :raises BackendUnavailable: neither came to an end, or too many earlier ones have not yet.
        """
        for _ in range(2):
            self._stuck = [read for read in self._stuck if read.is_alive()]
            if len(self._stuck) >= _MOST_STUCK:
                raise BackendUnavailable(None, f"{len(self._stuck)} earlier readings still wait for a QEMU that does not answer")
            current = _Read(self._read)
            current.start()
            current.join(_LONGEST_READ)
            if not current.is_alive():
                return current.get()
            self._stuck.append(current)
        raise BackendUnavailable(None, f"libvirt has not read its servers within {2 * _LONGEST_READ:.0f} s")


class _Read(threading.Thread, Generic[T]):
    def __init__(self, read: Callable[[], Sequence[T]]) -> None:
        super().__init__(name="libvirt-sampling", daemon=True)
        self._call = read
        self._result: Sequence[T] = ()
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:  # noqa: BLE001 - raised again where the result is wanted
            self._error = error

    def get(self) -> Sequence[T]:
        """After the end of the thread: the result, or its error."""
        if self._error is not None:
            raise self._error
        return self._result
