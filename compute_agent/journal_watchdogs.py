"""Watchdogs in a transaction of the journal: changes that were begun, and which watchdog each server is wanted to have."""

import json
from datetime import datetime

from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.journal_rows import WantedWatchdog, to_stored
from compute_agent.journal_statements import Statements


class WatchdogStatements(Statements):
    """Reads and writes what must outlive an agent that dies in the middle of a change."""

    def begin_watchdog_change(self, action_id: str, former: Watchdog, at: datetime) -> None:
        """From this commit on the driver may touch the server; what it had before is found here until the action has ended."""
        self.execute(
            "INSERT INTO watchdog_changes (action_id, former, begun_at) VALUES (?, ?, ?)",
            action_id,
            json.dumps(former.to_wire()),
            to_stored(at),
        )

    def find_former_watchdog(self, action_id: str) -> Watchdog | None:
        """What the server had when this action's change was begun; None: it was not, or has ended."""
        row = self.execute("SELECT former FROM watchdog_changes WHERE action_id = ?", action_id).fetchone()
        return None if row is None else Watchdog.from_wire(json.loads(row["former"]))

    def find_begun_change(self, server: str, *, except_for: str) -> str | None:
        """The id of another action whose change of this server's watchdog was begun and has not ended."""
        row = self.execute(
            "SELECT action_id FROM watchdog_changes JOIN actions ON actions.id = action_id WHERE server = ? AND action_id != ?",
            server,
            except_for,
        ).fetchone()
        return None if row is None else str(row["action_id"])

    def end_watchdog_change(self, action_id: str) -> None:
        self.execute("DELETE FROM watchdog_changes WHERE action_id = ?", action_id)

    def want_watchdog(self, server: str, generation: int, device: WatchdogDevice | None, action_id: str, at: datetime) -> None:
        """An action has seen to it that the server has this watchdog, or none; whoever changes that now is told of."""
        self.execute(
            "INSERT INTO wanted_watchdogs (server, generation, device, action_id, set_at) VALUES (?1, ?2, ?3, ?4, ?5)"
            " ON CONFLICT (server) DO UPDATE SET generation = ?2, device = ?3, action_id = ?4, set_at = ?5, told = NULL",
            server,
            generation,
            None if device is None else json.dumps(device.to_wire()),
            action_id,
            to_stored(at),
        )

    def list_wanted_watchdogs(self) -> list[WantedWatchdog]:
        return [WantedWatchdog.read(row) for row in self.execute("SELECT * FROM wanted_watchdogs ORDER BY server")]

    def tell_drift(self, server: str, found: Watchdog | None) -> None:
        """This difference from what is wanted has been told of; None: there is none any more."""
        told = None if found is None else json.dumps(found.to_wire())
        self.execute("UPDATE wanted_watchdogs SET told = ? WHERE server = ?", told, server)

    def forget_wanted_watchdog(self, server: str) -> None:
        """Nobody has asked for what it has now: it left (and may come back for another life), or a change of it ended unknown."""
        self.execute("DELETE FROM wanted_watchdogs WHERE server = ?", server)
