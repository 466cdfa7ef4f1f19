"""Finds the tracebacks in the logs of the processes: each by itself, whatever stands beside it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

_TRACEBACK = "Traceback (most recent call last):"
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ")
_NEXT_RECORD = re.compile(r"\[(-|None|req-)")
"""What follows the prefix that a traceback's lines share, where the line is another record of the same millisecond."""
_OUTSIDE = re.compile(r"Exception (in thread|ignored in)")
"""What Python says of an exception that nobody logged: its traceback has neither time nor prefix."""
_EXPECTED = re.compile(r"\S*LibraryBroke: ")
"""What a fake driver raised to see what becomes of it; what was raised instead of it, or afterwards, is not expected."""


@dataclass(frozen=True)
class LoggedTraceback:
    """``text`` is what was said of it, on the first line, and the traceback with those of its causes; the first line is empty where nothing
    was. ``logged_at`` is None where the log does not say."""

    text: str
    logged_at: float | None


def list_unexpected(log: Path) -> Iterator[LoggedTraceback]:
    """Those of a log, but not those of a fake driver's own misdeeds."""
    for found in list_tracebacks(log.read_text(errors="replace").split("\n")):
        if not _EXPECTED.match(_get_last_exception(found.text)):
            yield found


def list_tracebacks(lines: Sequence[str]) -> Iterator[LoggedTraceback]:
    """All of them; those of an exception and of what led to it are one."""
    number = 0
    while number < len(lines):
        if _TRACEBACK not in lines[number]:
            number += 1
            continue
        prefix = lines[number].partition(_TRACEBACK)[0]  # oslo.log puts the same one before each line
        following = (lines[index] for index in range(number + 1, len(lines)))
        block = [lines[number], *takewhile(lambda line: _goes_on(prefix, line), following)]  # noqa: B023 -- used up at once
        before = lines[number - 1] if number else ""
        header = before if (before.startswith(prefix) if prefix else _OUTSIDE.match(before)) else ""
        yield LoggedTraceback("\n".join([header, *(line.removeprefix(prefix) for line in block)]).rstrip("\n"), _find_time(prefix))
        number += len(block)


def _goes_on(prefix: str, line: str) -> bool:
    if prefix:
        return line.startswith(prefix) and not _NEXT_RECORD.match(line, len(prefix))
    return not _TIME.match(line) and not _OUTSIDE.match(line)


def _find_time(prefix: str) -> float | None:
    found = _TIME.match(prefix)
    return datetime.fromisoformat(found.group().rstrip()).timestamp() if found else None


def _get_last_exception(text: str) -> str:
    """Its type and words: the first line behind the last frame."""
    last = text.rpartition(_TRACEBACK)[2].split("\n")[1:]
    return next((line for line in last if line and not line.startswith(" ")), "")
