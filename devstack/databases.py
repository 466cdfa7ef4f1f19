"""What the private database servers have in common, and which of them a stack uses."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol

from devstack.mariadb import PrivateMariaDB
from devstack.ports import Ports
from devstack.postgresql import PrivatePostgreSQL


class DatabaseKind(StrEnum):
    """Where the gateway of a stack keeps its rows. SQLite is a file, which the gateway's processes open themselves."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    MARIADB = "mariadb"


class DatabaseServer(Protocol):
    """A private server. It may be killed, frozen and restarted at any time."""

    name: str
    log: Path

    @property
    def pid(self) -> int: ...
    @property
    def is_running(self) -> bool: ...
    def start(self) -> None:
        """Start and wait until it answers; raises StepFailed. What it had before is there again."""

    def stop(self) -> None:
        """An orderly stop that waits for no client."""

    def kill(self) -> None:
        """kill -9 of every process of it."""

    def restart(self) -> None:
        """stop() and start()."""

    def freeze(self) -> None:
        """SIGSTOP of every process of it: connections stay open, nothing answers."""

    def thaw(self) -> None:
        """SIGCONT after freeze()."""

    def build_url(self, database: str, *, port: int | None = None) -> str:
        """SQLAlchemy URL of one of its databases; over TCP at this port, if one is given, which may be a relay's."""

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """An empty one, or a copy of ``template``, to which nobody may be connected; its URL."""

    def drop_database(self, name: str) -> None: ...
    def back_up_database(self, name: str) -> None:
        """Dump it while it is in use; an earlier dump of it is replaced."""

    def restore_database(self, name: str) -> None:
        """Make it what it was at its last dump."""

    def end(self) -> None:
        """Stop it and remove all that it kept."""


def make_database_server(kind: DatabaseKind, state_dir: Path, ports: Ports) -> DatabaseServer | None:
    """That of the stack under `state_dir`; None for SQLite."""
    if kind is DatabaseKind.POSTGRESQL:
        return PrivatePostgreSQL(state_dir / "postgresql", port=ports.database, durable=True)
    if kind is DatabaseKind.MARIADB:
        return PrivateMariaDB(state_dir / "mariadb", port=ports.database, durable=True)
    return None
