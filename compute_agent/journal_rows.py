"""What the journal gives back: frozen rows, and how they are read. Times are UTC, stored as integer microseconds."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, ActionRequest, ActionResult, Departure, Observation, Server
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_stored(moment: datetime) -> int:
    """Microseconds since 1970, exact (a float would round)."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_stored(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _find_moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_stored(microseconds)


@lru_cache(maxsize=256)
def read_request(text: str) -> ActionRequest:
    """An action is read several times on its way, and what was asked never changes."""
    return ActionRequest.from_wire(json.loads(text))


class ActionState(StrEnum):
    """How far an action came on this host. It only moves forward."""

    RECEIVED = "received"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True)
class JournalledAction:
    """One action. ``monotonic_limit`` is the monotonic reading at which the deadline is over, counted down from its receipt; it
    means nothing (None) to any other incarnation of the agent than the one that ``incarnation`` names."""

    request: ActionRequest
    state: ActionState
    received_at: datetime
    incarnation: int
    monotonic_limit: float | None
    started_at: datetime | None = None
    signalled_at: datetime | None = None
    ended_at: datetime | None = None
    result: ActionResult | None = None
    observation: Observation | None = None
    observation_final: bool = False
    observed_at: datetime | None = None
    observation_text: str | None = None

    @property
    def was_begun(self) -> bool:
        """Whether anything may have been done for it already, by this incarnation of the agent or (if it is repeatable) an earlier one."""
        return self.started_at is not None

    @property
    def perhaps_sent(self) -> bool:
        """Whether a signal was, or may have been, or may right now be sent for it; only a crash dump sends one."""
        if self.request.kind is not ActionKind.TRIGGER_CRASH_DUMP:
            return False
        if self.result is None:
            return self.state is ActionState.STARTED
        return self.result.ending in (Ending.SUCCEEDED, Ending.UNKNOWN)

    @classmethod
    def read(cls, row: sqlite3.Row, incarnation: int) -> "JournalledAction":
        result = None
        if row["ending"] is not None:
            result = ActionResult(ending=Ending(row["ending"]), code=Code(row["code"]), reason=row["reason"])
        return cls(
            request=read_request(row["request"]),
            state=ActionState(row["state"]),
            received_at=from_stored(row["received_at"]),
            incarnation=row["incarnation"],
            monotonic_limit=row["monotonic_limit"] if row["incarnation"] == incarnation else None,
            started_at=_find_moment(row["started_at"]),
            signalled_at=_find_moment(row["signalled_at"]),
            ended_at=_find_moment(row["ended_at"]),
            result=result,
            observation=None if row["observation"] is None else Observation(row["observation"]),
            observation_final=bool(row["observation_final"]),
            observed_at=_find_moment(row["observed_at"]),
            observation_text=row["observation_text"],
        )


class SignalCause(StrEnum):
    """Who sent a signal."""

    ACTION = "action"
    WATCHDOG = "watchdog"


@dataclass(frozen=True)
class Signal:
    """A crash dump signal that was, or perhaps was, sent to a server: what the hold-off counts from.

    ``action_id`` is the message id of the firing's event where a watchdog sent it. ``at`` is when it was sent, and later by as long as the
    server stood still since; ``monotonic_at`` is the same moment by the monotonic clock of the machine's run ``boot``. ``cleared_at`` is
    when the server was last seen to reboot or stop, ``cleared`` whether that was after the signal.
    """

    server: str
    action_id: str
    at: datetime
    cleared_at: datetime | None
    monotonic_at: float
    boot: str
    cause: SignalCause = SignalCause.ACTION
    cleared: bool = False

    @classmethod
    def read(cls, row: sqlite3.Row) -> "Signal":
        return cls(
            server=row["server"],
            action_id=row["action_id"],
            at=from_stored(row["at"]),
            cleared_at=_find_moment(row["cleared_at"]),
            monotonic_at=row["monotonic_at"],
            boot=row["boot"],
            cause=SignalCause(row["cause"]),
            cleared=bool(row["cleared"]),
        )


@dataclass(frozen=True)
class OutboxRow:
    """One event. ``payload`` is plain JSON and already carries version, host, epoch and sequence. ``sent_at`` None: to be sent."""

    sequence: int
    message_id: str
    event_type: str
    severity: str
    server: str | None
    payload: dict[str, Any]
    occurred_at: datetime
    sent_at: datetime | None

    @classmethod
    def read(cls, row: sqlite3.Row) -> "OutboxRow":
        return cls(
            sequence=row["sequence"],
            message_id=row["message_id"],
            event_type=row["event_type"],
            severity=row["severity"],
            server=row["server"],
            payload=json.loads(row["payload"]),
            occurred_at=from_stored(row["occurred_at"]),
            sent_at=_find_moment(row["sent_at"]),
        )

    @classmethod
    def read_all(cls, rows: Sequence[sqlite3.Row]) -> list["OutboxRow"]:
        return [cls.read(row) for row in rows]


@dataclass(frozen=True)
class KnownServer:
    """A server as the inventory last committed it; ``removed_at`` and ``departure`` once it has left this host."""

    server: Server
    removed_at: datetime | None = None
    departure: Departure | None = None

    @classmethod
    def read(cls, row: sqlite3.Row) -> "KnownServer":
        return cls(
            server=Server.from_wire(json.loads(row["server"])),
            removed_at=_find_moment(row["removed_at"]),
            departure=None if row["departure"] is None else Departure(row["departure"]),
        )


@dataclass(frozen=True)
class WantedWatchdog:
    """The watchdog that an action gave a server in one of its lives; ``device`` None: it was removed. ``told``: what was found and told of
    last that differs."""

    server: str
    generation: int
    device: WatchdogDevice | None
    action_id: str
    set_at: datetime
    told: Watchdog | None = None

    @classmethod
    def read(cls, row: sqlite3.Row) -> "WantedWatchdog":
        return cls(
            server=row["server"],
            generation=row["generation"],
            device=None if row["device"] is None else WatchdogDevice.from_wire(json.loads(row["device"])),
            action_id=row["action_id"],
            set_at=from_stored(row["set_at"]),
            told=None if row["told"] is None else Watchdog.from_wire(json.loads(row["told"])),
        )
