"""The schema's history (alembic), packaged with the code; each migration says in its file to which phase of an upgrade it belongs."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from api_gateway.store.errors import OutOfOrder
from api_gateway.store.phases import Migration, Phase

VERSIONS = Path(__file__).parent / "versions"

_MARIADB_TEXTS = "ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
"""How tables made from now on keep texts: all of Unicode, and different ones are different, by case and by spaces at their end, as in
SQLite and PostgreSQL."""


def create_config(c: Connection) -> Config:
    """An alembic configuration without a file, over an open transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("version_locations", str(VERSIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")  # which is in no path's name, whatever else is
    config.attributes["connection"] = c
    return config


def list_pending(c: Connection) -> list[Migration]:
    """What this release's tables have and these do not, oldest first; empty also when they are newer."""
    scripts = ScriptDirectory.from_config(create_config(c))
    current = MigrationContext.configure(c).get_current_revision()
    history = [_describe(script) for script in reversed(list(scripts.walk_revisions()))]
    return [migration for migration in history if current is None or migration.revision > current]


def upgrade(c: Connection, phase: Phase | None = None) -> list[Migration]:
    """Bring the tables to the newest revision, or only through one phase, in the transaction of ``c``; what was done for it.

    MariaDB commits at each table that is made or changed: there an upgrade that was interrupted must be restored from a backup.

    :param phase: ``EXPAND`` or ``CONTRACT``; None: whatever there is to do
    :raises OutOfOrder: the other phase comes first.
    """
    pending = list_pending(c)
    if not pending:
        return []
    due = pending if phase is None else _choose(pending, phase)
    if c.dialect.name in ("mysql", "mariadb"):
        c.exec_driver_sql(_MARIADB_TEXTS)
    if due:
        command.upgrade(create_config(c), due[-1].revision)
    return due


def _choose(pending: Sequence[Migration], phase: Phase) -> list[Migration]:
    is_contract = phase is Phase.CONTRACT
    due = list(takewhile(lambda migration: (migration.phase is Phase.CONTRACT) == is_contract, pending))
    left = pending[len(due) :]
    if is_contract and not due:
        raise OutOfOrder(f"migration {left[0]} comes first: run crashcart-manage db upgrade --expand, then replace engines and APIs")
    if not is_contract and any(migration.phase is not Phase.CONTRACT for migration in left):
        raise OutOfOrder(
            f"migration {left[0]} comes first: run crashcart-manage db upgrade --contract of the release that runs, when nothing of "
            "the one before it does; or stop all engines and APIs and run this without --expand"
        )
    return due


def _describe(script: Script) -> Migration:
    first_sentence = " ".join(script.doc.split()).partition(". ")[0]
    return Migration(script.revision, Phase(script.module.phase), first_sentence)
