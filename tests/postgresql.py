"""A PostgreSQL server of one's own in a temporary directory, where the machine has its programs."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_INSTALLED = Path("/usr/lib/postgresql")
_START_TIMEOUT_SECONDS = 60
_SETTINGS = ("listen_addresses=", "shared_buffers=32MB", "max_connections=50")
"""Nobody reaches it but through its socket."""
_NOT_DURABLE = ("fsync=off", "full_page_writes=off")
"""Nothing in it is worth keeping."""


class NoPostgresql(Exception):
    """There is none to start on this machine; the text says what is missing."""


@dataclass(frozen=True)
class Postgresql:
    """A running server. ``directory`` holds its socket."""

    programs: Path
    directory: Path
    user: str

    def build_url(self, database: str) -> str:
        return f"postgresql+psycopg://{self.user}@/{database}?host={self.directory}"

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """A copy of ``template``, to which nobody may be connected.

        :returns: its URL.
        """
        command = [self.programs / "createdb", f"--host={self.directory}", f"--username={self.user}", f"--template={template}", name]
        subprocess.run(command, check=True, capture_output=True)
        return self.build_url(name)

    def drop_database(self, name: str) -> None:
        command = [self.programs / "dropdb", f"--host={self.directory}", f"--username={self.user}", name]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def run_postgresql(*, durable: bool = False) -> Iterator[Postgresql]:
    """Started for the block, gone behind it.

    :param durable: a commit waits for the disk, as in real use: for what measures it

    :raises NoPostgresql: see there.
    """
    programs = _find_programs()
    account = _find_account()
    directory = Path(tempfile.mkdtemp(prefix="crashcart-postgresql-"))
    try:
        os.chown(directory, account.pw_uid, account.pw_gid)
        cluster = directory / "data"
        common = {"check": True, "capture_output": True, "cwd": directory, "timeout": _START_TIMEOUT_SECONDS}
        if os.getuid() == 0:
            common |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        settings = (f"unix_socket_directories={directory}", *_SETTINGS, *(() if durable else _NOT_DURABLE))
        options = " ".join(f"-c {setting}" for setting in settings)
        control = [programs / "pg_ctl", f"--pgdata={cluster}", "--wait", "--silent"]
        subprocess.run([programs / "initdb", f"--pgdata={cluster}", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"], **common)
        subprocess.run([*control, f"--log={directory / 'log'}", f"--options={options}", "start"], **common)
        try:
            yield Postgresql(programs, directory, account.pw_name)
        finally:
            subprocess.run([*control, "--mode=immediate", "stop"], **common)
    finally:
        shutil.rmtree(directory)


def _find_programs() -> Path:
    found = [path.parent for path in _INSTALLED.glob("*/bin/postgres")] if _INSTALLED.is_dir() else []
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise NoPostgresql(f"neither {_INSTALLED} nor PATH has the programs of a PostgreSQL server")
    return (
        max(found, key=lambda path: [int(word) for word in path.parent.name.split(".") if word.isdecimal()])
        if found
        else Path(str(on_path)).parent
    )


def _find_account() -> pwd.struct_passwd:
    """Ours; root's own servers are refused by PostgreSQL, so root takes an account that has no rights."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgresql("root must not run PostgreSQL, and there is no account postgres or nobody")
