"""A private MariaDB server: its own files, socket and, if wanted, port of 127.0.0.1; no service of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from devstack.private_database import TIMEOUT_SECONDS, PrivateDatabase, remove_tree
from devstack.short_path import ShortPath
from devstack.steps import NotInstalled, StepFailed

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_USER = "crashcart"
_SETTINGS = (
    "--skip-name-resolve",
    "--max-connections=200",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    # Files in memory, as those of tests, have no such reads and writes.
    "--innodb-use-native-aio=OFF",
    "--performance-schema=OFF",
)
_NOT_DURABLE = ("--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=OFF", "--innodb-flush-method=nosync")
"""What was committed survives the server, not the machine."""


class PrivateMariaDB(PrivateDatabase):
    """MariaDB's.

    :param port: of 127.0.0.1; None: it is reached through its socket alone
    :param durable: a commit waits for the disk, as in real use
    :raises NotInstalled: its programs are not there.
    """

    name = "MariaDB"

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = False) -> None:
        home = directory.resolve()
        self._short = ShortPath(home)
        self._socket = self._short.path / "server.sock"
        listen = ["--bind-address=127.0.0.1", f"--port={port}"] if port else ["--skip-networking"]
        argv = [_find_program("mariadbd"), "--no-defaults", f"--datadir={home / 'data'}", f"--socket={self._socket}"]
        super().__init__(directory, home, [*argv, f"--user={_account()}", *listen, *_SETTINGS, *(() if durable else _NOT_DURABLE)])

    def build_url(self, database: str, *, port: int | None = None) -> str:
        """SQLAlchemy URL of one of its databases; over TCP at this port, if one is given, which may be a relay's."""
        account = f"mysql+pymysql://{_USER}:{self._read_password()}"
        if port is not None:
            return f"{account}@127.0.0.1:{port}/{database}"
        return f"{account}@localhost/{database}?unix_socket={self._socket}"

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """An empty one, with the server's own character set, as an operator may have made it, or a copy of ``template``; its URL."""
        statements = [f"CREATE DATABASE {name}"]
        for table in self._run_sql(f"SHOW TABLES FROM {template}").splitlines() if template else ():
            statements += [f"CREATE TABLE {name}.{table} LIKE {template}.{table}"]
            statements += [f"INSERT INTO {name}.{table} SELECT * FROM {template}.{table}"]
        self._run_sql("; ".join(statements))
        return self.build_url(name)

    def drop_database(self, name: str) -> None:
        self._run_sql(f"DROP DATABASE {name}")

    def back_up_database(self, name: str) -> None:
        """Dump it while it is in use; an earlier dump of it is replaced.

        :raises NotInstalled: there is no program for it.
        """
        with self._get_dump(name).open("w") as dump:
            self._run([*self._make_client("mariadb-dump"), "--single-transaction", "--quick", name], stdout=dump)

    def restore_database(self, name: str) -> None:
        """Make it what it was at its last dump."""
        self._run_sql(f"DROP DATABASE {name}; CREATE DATABASE {name}")
        with self._get_dump(name).open() as dump:
            self._run([*self._make_client("mariadb"), name], stdin=dump)

    def end(self) -> None:
        super().end()
        self._short.remove()

    def _make_files(self) -> None:
        self._make_password()
        options = ["--no-defaults", f"--datadir={self._rows}", f"--user={_account()}", "--auth-root-authentication-method=normal"]
        self._run([_find_program("mariadb-install-db"), *options, "--skip-test-db", "--skip-name-resolve"])

    def _remove_files(self) -> None:
        for file in (self.whole, self._password, *self._home.glob("*.dump")):
            file.unlink(missing_ok=True)
        remove_tree(self._rows)

    def _prepare_start(self) -> None:
        self._short.make()

    def _make_accounts(self) -> None:
        password = self._read_password()
        for place in ("localhost", "'127.0.0.1'"):
            self._run_sql(f"CREATE USER {_USER}@{place} IDENTIFIED BY '{password}'; GRANT ALL ON *.* TO {_USER}@{place}")

    def _answers(self) -> bool:
        return self._call_client("SELECT 1").returncode == 0

    def _run_sql(self, statements: str) -> str:
        """What it answers, one row a line."""
        done = self._call_client(statements)
        if done.returncode != 0:
            raise StepFailed(f"MariaDB refused a statement: {done.stderr.strip()}", log=self.log)
        return done.stdout

    def _call_client(self, statements: str) -> subprocess.CompletedProcess[str]:
        argv = [*self._make_client("mariadb"), "--skip-column-names"]
        return subprocess.run(argv, input=statements, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)

    def _make_client(self, program: str) -> list[str]:
        return [_find_program(program), "--no-defaults", f"--socket={self._socket}", "--user=root"]


def _account() -> str:
    return "root" if os.geteuid() == 0 else str(os.geteuid())


def _find_program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise NotInstalled(f"{name} is not installed", advice="run devstack/demo once, it installs what is missing")
    return found
