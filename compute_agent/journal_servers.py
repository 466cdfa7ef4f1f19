"""The known servers in a transaction of the journal: which this host has, and for a while which have left it."""

import json
from collections.abc import Collection
from datetime import datetime, timedelta

from compute_agent.contract.models import Departure, Server
from compute_agent.journal_rows import KnownServer, to_stored
from compute_agent.journal_watchdogs import WatchdogStatements

LONGEST_CURSOR = 1024
"""Characters of a driver's cursor: what is longer is no place in a log."""


class ServerStatements(WatchdogStatements):
    """Reads and writes known servers."""

    def list_known_servers(self) -> dict[str, KnownServer]:
        """The servers that this host has, as last committed."""
        rows = self.execute("SELECT * FROM servers WHERE removed_at IS NULL ORDER BY id")
        return {row["id"]: KnownServer.read(row) for row in rows}

    def list_known_ids(self) -> set[str]:
        """Only the ids of :meth:`list_known_servers`."""
        return {row["id"] for row in self.execute("SELECT id FROM servers WHERE removed_at IS NULL")}

    def find_known_server(self, server: str) -> KnownServer | None:
        """One server, also one that has left (``removed_at``)."""
        row = self.execute("SELECT * FROM servers WHERE id = ?", server).fetchone()
        return None if row is None else KnownServer.read(row)

    def find_generation(self, server: str) -> int | None:
        """Which of its lives a server has on this host; None: it is not here."""
        row = self.execute("SELECT generation FROM servers WHERE id = ? AND removed_at IS NULL", server).fetchone()
        return None if row is None else int(row["generation"])

    def next_generation(self, server: str) -> int:
        """The generation that this UUID gets when it appears now: 1 for a new one, one more than its last life's for a known one."""
        known = self.find_known_server(server)
        return 1 if known is None else known.server.generation + 1

    def put_known_server(self, server: Server) -> None:
        self.execute(
            "INSERT INTO servers (id, generation, server) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE"
            " SET generation = ?2, server = ?3, removed_at = NULL, departure = NULL",
            server.id,
            server.generation,
            json.dumps(server.to_wire()),
        )

    def remove_known_server(self, server: str, departure: Departure, at: datetime) -> None:
        """It left this host. Its row stays for a while, so that its next life gets the next generation."""
        self.execute(
            "UPDATE servers SET removed_at = ?, departure = ?, age = ? WHERE id = ?",
            to_stored(at),
            departure,
            self._origin.age.count(),
            server,
        )
        self.forget_wanted_watchdog(server)
        self.forget_cursor(server)

    def keep_cursor(self, server: str, cursor: str) -> None:
        """The platform's log of this server was read this far. Kept together with what was in it, nothing of it is lost or told twice.

        :raises ValueError: no cursor is that long.
        """
        if len(cursor) > LONGEST_CURSOR:
            raise ValueError(f"server {server}: a cursor of {len(cursor)} characters, {LONGEST_CURSOR} are the most")
        self.execute(
            "INSERT INTO cursors (server, cursor) VALUES (?1, ?2) ON CONFLICT (server) DO UPDATE SET cursor = ?2 WHERE cursor != ?2",
            server,
            cursor,
        )

    def list_cursors(self) -> dict[str, str]:
        """By server, what the driver is to go on from."""
        return {row["server"]: row["cursor"] for row in self.execute("SELECT server, cursor FROM cursors")}

    def forget_cursor(self, server: str) -> None:
        """It left: what its platform writes until it comes back belongs to no life of it here."""
        self.execute("DELETE FROM cursors WHERE server = ?", server)

    def forget_strange_cursors(self) -> None:
        """Those of servers that this host does not have: a log may be read before its server is known, and after it has left."""
        self.execute("DELETE FROM cursors WHERE server NOT IN (SELECT id FROM servers WHERE removed_at IS NULL)")

    def list_departures(self, since: datetime, limit: int) -> dict[str, Departure]:
        """Why servers left at or after ``since``; of more than ``limit`` those that left last."""
        rows = self.execute(
            "SELECT id, departure FROM servers WHERE removed_at >= ? ORDER BY removed_at DESC, id LIMIT ?", to_stored(since), limit
        )
        return {row["id"]: Departure(row["departure"]) for row in rows}

    def forget_departed(self, now: datetime, keep: timedelta, limit: int, *, except_for: Collection[str]) -> int:
        """Forget servers that left ``keep`` ago, by both clocks, and the longest gone of more than ``limit``; returns how many.

        Those of ``except_for`` are kept: what a migration left behind would be claimed as a new server.
        """
        rows = self.execute(
            "SELECT id FROM servers WHERE removed_at < ?1 AND age < ?2 UNION"
            " SELECT id FROM (SELECT id FROM servers WHERE removed_at IS NOT NULL ORDER BY removed_at DESC, id LIMIT -1 OFFSET ?3)",
            to_stored(now - keep),
            self._origin.age.count() - keep.total_seconds(),
            limit,
        ).fetchall()
        forgotten = [row["id"] for row in rows if row["id"] not in except_for]
        for server in forgotten:
            self.execute("DELETE FROM servers WHERE id = ?", server)
        return len(forgotten)
