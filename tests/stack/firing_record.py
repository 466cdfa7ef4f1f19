"""What the journal and the store say of watchdogs that fired, and what is wrong with it beside an independent ledger of the firings."""

import json
import re
import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.firing_ledger import Fired

FIRED, OUTCOME = "server.watchdog.fired", "server.watchdog.outcome"
KILL_SHADOW = timedelta(milliseconds=50)
"""How long before a kill a firing may have happened and still be lost with what was killed."""
_STANDSTILL = timedelta(seconds=10)
"""How long an agent or libvirtd may stand still."""
_AT_ONCE = timedelta(milliseconds=50)
"""How far apart it then tells of two that fired meanwhile."""
_ROUNDING = timedelta(milliseconds=1)
"""The record counts in milliseconds, QEMU in microseconds."""


@dataclass(frozen=True)
class Event:
    """An event of an agent, as its journal or the store has it. ``place`` is its place in the order there."""

    message_id: str
    event_type: str
    server: str | None
    place: int
    sequence: int
    payload: dict[str, Any]

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.payload["occurred_at"])

    @property
    def is_late(self) -> bool:
        return bool(self.payload.get("observed_late"))


@dataclass(frozen=True)
class Away:
    """Nobody could be told of a firing in this time: agent or libvirtd was killed as it began, and both were there again as it ended."""

    killed: str
    since: datetime
    until: datetime

    def excuses(self, at: datetime) -> bool:
        return self.since - KILL_SHADOW <= at <= self.until


def read_journal(path: Path) -> list[Event]:
    """All events of an agent's outbox, sent or not."""
    return _read(path, "SELECT message_id, event_type, server, sequence AS place, sequence, payload FROM outbox ORDER BY place")


def read_store(path: Path, epoch: str) -> list[Event]:
    """All recorded events of one journal, in the order of the record."""
    columns = "message_id, event_type, server, position AS place, sequence, payload"
    return _read(path, f"SELECT {columns} FROM events WHERE epoch = ? ORDER BY place", epoch)


def read_epoch(path: Path) -> str:
    """The journal's id."""
    (fact,) = _query(path, "SELECT value FROM facts WHERE key = 'journal_id'")
    return str(fact["value"])


def _read(path: Path, statement: str, *values: str) -> list[Event]:
    rows = _query(path, statement, *values)
    return [Event(**{**row, "payload": json.loads(row["payload"])}) for row in rows]


def _query(path: Path, statement: str, *values: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement, values)]


def list_connections(log: Path) -> list[datetime]:
    """When an agent, by its log, had libvirt's events registered on a new connection."""
    found = re.findall(r"^(\S+ \S+) .* Connected to libvirt at ", log.read_text(), re.MULTILINE)
    return [datetime.fromisoformat(stamp).astimezone() for stamp in found]


def find_unrecorded(journalled: Sequence[Event], recorded: Sequence[Event]) -> list[str]:
    """Why the store does not hold each committed event exactly once, in the order of each server."""
    times = Counter(event.message_id for event in recorded)
    problems = [f"recorded {times[event.message_id]} times: {event}" for event in journalled if times[event.message_id] != 1]
    problems += [f"never committed: {event}" for event in recorded if event.message_id not in {each.message_id for each in journalled}]
    for server in {event.server for event in recorded}:
        sequences = [event.sequence for event in recorded if event.server == server]
        if sequences != sorted(sequences):
            problems.append(f"not in order, server {server}: {sequences}")
    return problems


def find_inconclusive(recorded: Sequence[Event]) -> list[str]:
    """Which firings have not exactly one outcome, and which outcomes no firing before them."""
    outcomes: dict[str, list[Event]] = {}
    for event in recorded:
        if event.event_type == OUTCOME:
            outcomes.setdefault(event.payload["fired_event"], []).append(event)
    problems = []
    for event in (event for event in recorded if event.event_type == FIRED):
        found = outcomes.pop(event.message_id, [])
        if len(found) != 1 or found[0].place < event.place or found[0].server != event.server:
            problems.append(f"{len(found)} outcomes, or not after it, or another server's: {event}: {found}")
    return problems + [f"outcome of no firing: {event}" for events in outcomes.values() for event in events]


def find_misses(ledger: Sequence[Fired], recorded: Sequence[Event], away: Iterable[Away]) -> list[str]:
    """Where the record of one server differs from the ledger without an excuse.

    A recorded firing is the ledger's last one before it: a watchdog fires again only after more than a second. Who stood still for some
    seconds is told of several at one moment: those are the ones before, in their order.
    """
    excuses = list(away)
    moments = sorted(fired.at for fired in ledger)
    told: set[int] = set()
    problems = []
    on_time = [event for event in recorded if event.event_type == FIRED and not event.is_late]
    later: tuple[datetime, int] | None = None
    for event in sorted(on_time, key=lambda event: event.place, reverse=True):
        index = bisect_right(moments, event.at + _ROUNDING) - 1
        is_known = index in told
        if later is not None and index >= later[1] and later[0] - event.at < _AT_ONCE:
            index = later[1] - 1
            at = moments[max(index, 0)]
            is_known = index in told or event.at - at >= _STANDSTILL or any(excuse.excuses(at) for excuse in excuses)
        if index < 0 or is_known:
            problems.append(f"recorded once more than it fired: {event}")
        told.add(index)
        later = event.at, index
    for event in (event for event in recorded if event.event_type == FIRED and event.is_late):
        index = bisect_right(moments, event.at + _ROUNDING) - 1
        if index < 0 or index in told or not any(excuse.excuses(moments[index]) for excuse in excuses):
            problems.append(f"found late what was told, or what never fired while somebody was away: {event}")
        told.add(index)
    for index, at in enumerate(moments):
        if index not in told and not any(excuse.excuses(at) for excuse in excuses):
            problems.append(f"missed: the firing of {at.isoformat()}")
    return problems
