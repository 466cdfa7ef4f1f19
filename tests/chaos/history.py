"""The history of a run: JSON lines on disk, one for each thing that was done or seen, by whom and when.

Each line has ``at`` (seconds since the epoch, the one clock of the machine) and ``what``; the other fields are those of :class:`What`.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

Line = dict[str, Any]
CRASH_DUMP = "trigger_crash_dump"


class What(StrEnum):
    """What a line tells, and its fields."""

    SETUP = "setup"
    """``seed``, ``servers`` (id -> ``host``, ``project``), ``holdoff``, ``skew`` and ``bound`` (seconds), ``faults`` that may strike."""
    ANSWER = "answer"
    """To a request for an action: ``project``, ``server``, ``host``, ``kind``, ``asked_at``, ``status`` (None: no answer), ``action``
    (of a 202 or 200), ``key``, ``force``, ``error``."""
    SHOWN = "shown"
    """To a request for anything else: ``project``, ``path``, ``status``, ``servers`` and ``projects`` that the answer names."""
    SEEN = "seen"
    """An action as it was shown to its project, whenever that changed: ``action``, ``state``, ``ending``, ``code``, ``decided_by``."""
    HEARD = "heard"
    """A notification as another consumer received it: ``message_id``, ``type``, ``host``, ``epoch``, ``sequence``, ``action``."""
    FAULT = "fault"
    """``id``, ``name``, ``phase`` (``begins``, ``over``, ``failed``), ``hosts``, ``parts``, ``text``."""
    STOOD_STILL = "stood still"
    """The machine itself did, until now, for ``seconds``."""
    REVIVED = "revived"
    """``part`` had ended by itself and was started again; the last line of its log is ``text``."""
    POISON = "poison"
    """Put into a queue: ``queue``, ``digest`` of the body, ``message_id`` if it has one, and a pattern of what a library ``says`` of it."""
    BACKUP = "backup"
    """The store was copied. No fields."""
    RESTORED = "restored"
    """The store is the copy that was made at ``taken_at``."""
    PURGED = "purged"
    """``queue``: what lay in it was destroyed."""
    CALL = "call"
    """Of the hypervisor: ``phase`` (``begins``, ``signal``, ``returns``), ``call`` (its id), ``action``, ``server``, ``host``, ``pid``."""
    RESET = "reset"
    """Of the hypervisor, or by whoever struck or repaired a guest: ``server`` is rebooted, or stopped and started."""
    BOOTED = "booted"
    """A real guest, ``server``, counts again, in a new life."""
    COUNTED = "counted"
    """A real guest, ``server``, has counted one more NMI; ``panicked``: it counts no further one in this life."""
    FIRED = "fired"
    """QEMU says that the watchdog of ``server`` fired, and which ``action`` followed."""
    GUEST = "guest"
    """Of a real guest at the end: ``server`` and the ``signals`` that it counted itself; ``panics``: one in a life at
    most; ``dumps``: it is its crash kernel that says so."""
    ROW = "row"
    """An action in the store at the end: its columns."""
    EVENT = "event"
    """An event in the store at the end, in the order of their positions: its columns without the payload; of ``events.lost`` with it."""
    OUTBOX = "outbox"
    """An event of the gateway's own, in the store at the end: ``message_id``, ``type``, ``sent``."""
    JOURNALLED_EVENT = "journalled_event"
    """An event in a journal at the end: ``epoch``, ``host``, ``sequence``, ``message_id``, ``type``, ``sent``, and whether the journal
    was ``destroyed`` by an operator, or is that of a ``second`` agent of the same name."""
    JOURNALLED_ACTION = "journalled_action"
    """An action in a journal at the end: ``id``, ``host``, ``epoch``, ``state``, ``ending``, ``code``, ``destroyed``."""
    DEAD_LETTER = "dead_letter"
    """In the store at the end: ``digest`` of the body, ``source``, ``reason``."""
    COUNTER = "counter"
    """In the store at the end: ``name``, ``value``."""
    TRACEBACK = "traceback"
    """A process logged what it did not expect: ``part``, ``text``, and ``logged_at``, None where the log does not say when."""
    UNSETTLED = "unsettled"
    """After the faults it never became quiet: ``text`` says what was still going on."""


class History:
    """Writes it. Thread-safe; each line is on its way to the disk when :meth:`write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()

    def write(self, what: What, *, at: float | None = None, **fields: Any) -> None:
        line = {"at": time.time() if at is None else at, "what": what, **fields}
        with self._lock:
            os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_lines(path: Path) -> Iterator[Line]:
    """Every line, in the order in which they were written. One that a dying process left unfinished at the end is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
