"""The schema's history (alembic), packaged with the code. Between neighbouring releases a migration only adds."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

_MARIADB_TEXTS = "ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
"""How tables made from now on keep texts: all of Unicode, and different ones are different, by case and by spaces at their end, as in
SQLite and PostgreSQL."""


def create_config(c: Connection) -> Config:
    """An alembic configuration without a file, over an open transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = c
    return config


def upgrade(c: Connection) -> None:
    """Bring the tables to the newest revision, in the transaction of ``c``.

    MariaDB commits at each table that is made or changed: there an upgrade that was interrupted must be restored from a backup.
    """
    if c.dialect.name in ("mysql", "mariadb"):
        c.exec_driver_sql(_MARIADB_TEXTS)
    command.upgrade(create_config(c), "head")
