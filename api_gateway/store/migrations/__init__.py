"""The schema's history (alembic), packaged with the code. Between neighbouring releases a migration only adds."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def create_config(c: Connection) -> Config:
    """An alembic configuration without a file, over an open transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = c
    return config


def upgrade(c: Connection) -> None:
    """Bring the tables to the newest revision, in the transaction of ``c``."""
    command.upgrade(create_config(c), "head")
