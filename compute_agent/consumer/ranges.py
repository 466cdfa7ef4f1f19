"""Sets of sequence numbers as ranges, each with a word about it: as small as what is missing is contiguous, not as it is long."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

W = TypeVar("W")


@dataclass(frozen=True)
class Range(Generic[W]):
    """The sequences from ``first`` to ``last``, both among them."""

    first: int
    last: int
    word: W


class Ranges(Generic[W]):
    """Disjoint ranges in order. Of more than ``limit`` the lowest are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ranges: list[Range[W]] = []

    def __iter__(self) -> Iterator[Range[W]]:
        return iter(self._ranges)

    def put(self, first: int, last: int, word: W) -> None:
        """Say ``word`` of these sequences, whatever was said of some of them before."""
        if first > last:
            return
        self.take(first, last)
        self._ranges.insert(bisect.bisect_left(self._ranges, first, key=_get_first), Range(first, last, word))
        if len(self._ranges) > self._limit:
            del self._ranges[0]

    def take(self, first: int, last: int) -> list[Range[W]]:
        """Take these sequences out of the set; what of them was in it, in order."""
        begin = bisect.bisect_left(self._ranges, first, key=_get_last)
        end = bisect.bisect_right(self._ranges, last, key=_get_first)
        touched = self._ranges[begin:end]
        if not touched:
            return []
        kept = [replace(touched[0], last=first - 1)] if touched[0].first < first else []
        kept += [replace(touched[-1], first=last + 1)] if touched[-1].last > last else []
        self._ranges[begin:end] = kept
        return [replace(one, first=max(one.first, first), last=min(one.last, last)) for one in touched]

    def list_within(self, first: int, last: int) -> list[Range[W]]:
        """What of these sequences is in the set, in order; the set stays as it is."""
        begin = bisect.bisect_left(self._ranges, first, key=_get_last)
        end = bisect.bisect_right(self._ranges, last, key=_get_first)
        return [replace(one, first=max(one.first, first), last=min(one.last, last)) for one in self._ranges[begin:end]]


def _get_first(one: Range[W]) -> int:
    return one.first


def _get_last(one: Range[W]) -> int:
    return one.last
