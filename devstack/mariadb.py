"""A private MariaDB server: its own files, socket and, if wanted, port of 127.0.0.1; no service of the machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from devstack.services import Service, ServiceOwner
from devstack.short_path import ShortPath
from devstack.steps import NotInstalled, StepFailed

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_USER = "crashcart"
_TIMEOUT_SECONDS = 60
_STOP_GRACE = 20.0
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


class PrivateMariaDB(ServiceOwner):
    """One server; found again by any later object with the same directory.

    :param port: of 127.0.0.1; None: it is reached through its socket alone
    :param durable: a commit waits for the disk, as in real use
    :raises NotInstalled: its programs are not there.
    """

    name = "MariaDB"

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = False) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / "server.log"
        self._port = port
        self._short = ShortPath(self.directory)
        self._socket = self._short.path / "server.sock"
        listen = ["--bind-address=127.0.0.1", f"--port={port}"] if port else ["--skip-networking"]
        self._service = Service(
            self.name,
            [
                *(_find_program("mariadbd"), "--no-defaults", f"--datadir={self._data}", f"--socket={self._socket}"),
                *(f"--user={_account()}", *listen, *_SETTINGS, *(() if durable else _NOT_DURABLE)),
            ],
            log=self.log,
            record=self.directory / "server.pid",
            cwd=Path("/"),
        )

    def start(self) -> None:
        """Start and wait until it answers; raises StepFailed. What it had before is there again."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._short.make()
        is_new = not self._data.exists()
        if is_new:
            self._make_data()
        self._service.start()
        self._service.wait_ready(self._answers, _TIMEOUT_SECONDS, "it answers on its socket", advice="read the log")
        if is_new:
            self._run_sql(
                f"CREATE USER {_USER}@localhost IDENTIFIED BY '{self._read_password()}'; "
                f"CREATE USER {_USER}@'127.0.0.1' IDENTIFIED BY '{self._read_password()}'; "
                f"GRANT ALL ON *.* TO {_USER}@localhost; GRANT ALL ON *.* TO {_USER}@'127.0.0.1'"
            )

    def stop(self) -> None:
        """An orderly stop that waits for no client."""
        self._service.stop(_STOP_GRACE)

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

    def end(self) -> None:
        """Stop it and remove all that it kept."""
        self.stop()
        self._short.remove()
        if self._data.exists():
            shutil.rmtree(self._data)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _make_data(self) -> None:
        password = self.directory / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        options = ["--no-defaults", f"--datadir={self._data}", f"--user={_account()}", "--auth-root-authentication-method=normal"]
        self._run([_find_program("mariadb-install-db"), *options, "--skip-test-db", "--skip-name-resolve"])

    def _read_password(self) -> str:
        return (self.directory / "password").read_text()

    def _answers(self) -> bool:
        return self._call_client("SELECT 1").returncode == 0

    def _run_sql(self, statements: str) -> str:
        """What it answers, one row a line."""
        done = self._call_client(statements)
        if done.returncode != 0:
            raise StepFailed(f"MariaDB refused a statement: {done.stderr.strip()}", log=self.log)
        return done.stdout

    def _call_client(self, statements: str) -> subprocess.CompletedProcess[str]:
        argv = [_find_program("mariadb"), "--no-defaults", f"--socket={self._socket}", "--user=root", "--skip-column-names"]
        return subprocess.run(argv, input=statements, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)

    def _run(self, argv: list[str]) -> None:
        with self.log.open("ab") as output:
            done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise StepFailed(f"{Path(argv[0]).name} failed", log=self.log, advice="read the log")


def _account() -> str:
    return "root" if os.geteuid() == 0 else str(os.geteuid())


def _find_program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise NotInstalled(f"{name} is not installed", advice="run devstack/demo once, it installs what is missing")
    return found
