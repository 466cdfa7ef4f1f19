"""Watchdogs' firings in a transaction of the journal: each is told by one event, and so is what came of it.

A firing is open until its outcome is known; that is decided by compare-and-set, so events, comparisons, timers and the search for a dump
may race: exactly one of them tells the outcome.
"""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from compute_agent.contract.events import WatchdogResult
from compute_agent.contract.topics import Severity
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.models import FoundDump
from compute_agent.journal_outbox import OutboxStatements
from compute_agent.journal_rows import SignalCause, from_stored, to_stored
from compute_agent.watchdog_outcomes import Verdict, find_effect


@dataclass(frozen=True)
class Firing:
    """One firing. ``message_id`` is that of its event ``server.watchdog.fired``, ``concluded_at`` None while its outcome is open."""

    server: str
    message_id: str
    at: datetime
    expiry_action: str | None
    driver_word: str
    observed_late: bool
    concluded_at: datetime | None

    @property
    def effect(self) -> str:
        """What was done to the server."""
        return find_effect(self.expiry_action, self.driver_word)

    @classmethod
    def read(cls, row: sqlite3.Row) -> "Firing":
        return cls(
            server=row["server"],
            message_id=row["message_id"],
            at=from_stored(row["at"]),
            expiry_action=row["expiry_action"],
            driver_word=row["driver_word"],
            observed_late=bool(row["observed_late"]),
            concluded_at=None if row["concluded_at"] is None else from_stored(row["concluded_at"]),
        )


class FiringStatements(OutboxStatements):
    """Reads and writes firings."""

    def add_firing(
        self, server: str, at: datetime, *, model: str | None, expiry_action: str | None, driver_word: str, observed_late: bool = False
    ) -> Firing:
        """A watchdog fired: its event, its row, and the signal that an NMI of it is: the dump that it starts must not be ruined."""
        body = {"model": model, "expiry_action": expiry_action, "driver_word": driver_word, "observed_late": observed_late}
        sequence = self.append_event("server.watchdog.fired", server=server, occurred_at=at, body=body)
        message_id = self.list_outbox(sequence, sequence)[0].message_id
        firing = Firing(server, message_id, at, expiry_action, driver_word, observed_late, None)
        self.execute(
            "INSERT INTO firings (server, message_id, at, expiry_action, driver_word, observed_late) VALUES (?, ?, ?, ?, ?, ?)",
            server,
            message_id,
            to_stored(at),
            expiry_action,
            driver_word,
            int(observed_late),
        )
        if firing.effect == ExpiryAction.INJECT_NMI:
            self._add_signal_of(firing)
        return firing

    def conclude_firing(
        self,
        firing: Firing,
        verdict: Verdict,
        at: datetime,
        *,
        reason: str = "",
        dump: FoundDump | None = None,
        observed_late: bool = False,
    ) -> bool:
        """Tell what came of a firing; False when that was told already (nothing is changed then)."""
        changed = self.execute(
            "UPDATE firings SET concluded_at = ?, age = ? WHERE message_id = ? AND concluded_at IS NULL",
            to_stored(at),
            self._origin.age.count(),
            firing.message_id,
        ).rowcount
        if not changed:
            return False
        body = {
            "fired_event": firing.message_id,
            "expiry_action": firing.expiry_action,
            "result": verdict.result,
            "reason": reason,
            "text": verdict.text,
            "dump_path": None if dump is None else dump.path,
            "dump_bytes": None if dump is None else dump.size,
            "observed_late": observed_late,
        }
        self.append_event("server.watchdog.outcome", server=firing.server, occurred_at=at, body=body, severity=_find_severity(verdict))
        return True

    def list_open_firings(self, server: str | None = None) -> list[Firing]:
        """Those without an outcome, in the order of their events."""
        rows = self.execute(
            "SELECT * FROM firings WHERE concluded_at IS NULL AND (?1 IS NULL OR server = ?1) ORDER BY position", server
        ).fetchall()
        return [Firing.read(row) for row in rows]

    def find_last_firing(self, server: str) -> Firing | None:
        """The latest one of a server, with or without an outcome."""
        row = self.execute("SELECT * FROM firings WHERE server = ? ORDER BY position DESC LIMIT 1", server).fetchone()
        return None if row is None else Firing.read(row)

    def find_neighbours(self, firing: Firing) -> tuple[Firing | None, Firing | None]:
        """The same server's firing before this one and the one after it."""
        position = "(SELECT position FROM firings WHERE message_id = ?2)"
        before, after = (
            self.execute(
                f"SELECT * FROM firings WHERE server = ?1 AND position {where} LIMIT 1",  # noqa: S608 # one of the two texts below
                firing.server,
                firing.message_id,
            ).fetchone()
            for where in (f"< {position} ORDER BY position DESC", f"> {position} ORDER BY position")
        )
        return None if before is None else Firing.read(before), None if after is None else Firing.read(after)

    def has_run_since(self, firing: Firing) -> bool:
        """Whether its server, once it stood still, was told to run again. The order of the events counts, times may have been set back."""
        row = self.execute(
            "SELECT EXISTS (SELECT 1 FROM outbox WHERE server = ? AND event_type = 'server.resumed'"
            " AND sequence > (SELECT sequence FROM outbox WHERE message_id = ?))",
            firing.server,
            firing.message_id,
        ).fetchone()
        return bool(row[0])

    def _add_signal_of(self, firing: Firing) -> None:
        self.add_signal(firing.server, firing.message_id, firing.at, SignalCause.WATCHDOG)


_WANTS_A_LOOK = frozenset({WatchdogResult.DUMP_FAILED, WatchdogResult.NOTHING_SEEN, WatchdogResult.NOT_OBSERVED})


def _find_severity(verdict: Verdict) -> Severity:
    """What went as its operator configured it is no news beside the firing; the rest is to be looked into."""
    return Severity.WARN if verdict.result in _WANTS_A_LOOK else Severity.INFO
