"""A private PostgreSQL server: its own files, socket and, if wanted, port of 127.0.0.1; no service of the machine."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from devstack.services import ProcessId, Service, ServiceOwner, list_children
from devstack.short_path import ShortPath
from devstack.steps import NotInstalled, StepFailed

_INSTALLED = Path("/usr/lib/postgresql")
_TIMEOUT_SECONDS = 60
_STOP_GRACE = 20.0
_SETTINGS = ("shared_buffers=32MB", "max_connections=200", "logging_collector=off", "log_min_messages=warning")
_NOT_DURABLE = ("fsync=off", "full_page_writes=off")
"""What was committed survives the server, not the machine."""


class PrivatePostgreSQL(ServiceOwner):
    """One server; found again by any later object with the same directory.

    PostgreSQL refuses to be root's. Root's server belongs to an account that has no rights, so its files lie in a directory of that
    account beside the other temporary files, and `directory` has the log and what it takes to find it.

    :param port: of 127.0.0.1; None: it is reached through its socket alone
    :param durable: a commit waits for the disk, as in real use
    :raises NotInstalled: there are no programs of such a server, or no account to run them.
    """

    name = "PostgreSQL"

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = False) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / "server.log"
        self._programs = _find_programs()
        self._account = _find_account()
        self._port = port
        own = ShortPath(self.directory).path
        self._files = own.with_name(f"{own.name}-files")
        listen = ("listen_addresses=127.0.0.1", f"port={port}") if port else ("listen_addresses=",)
        settings = (f"unix_socket_directories={self._files}", *listen, *_SETTINGS, *(() if durable else _NOT_DURABLE))
        self._service = Service(
            self.name,
            [*self._as_account, str(self._programs / "postgres"), "-D", str(self._cluster), *(f"--{setting}" for setting in settings)],
            log=self.log,
            record=self.directory / "server.pid",
            cwd=Path("/"),
        )

    def start(self) -> None:
        """Start and wait until it answers; raises StepFailed. What it had before is there again."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._cluster.exists():
            self._make_cluster()
        # Left by one that was killed; its number may be another process's by now, and PostgreSQL would wait for that one.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        self._service.start()
        self._service.wait_ready(self._answers, _TIMEOUT_SECONDS, "it answers on its socket", advice="read the log")

    def stop(self) -> None:
        """An orderly stop that waits for no client."""
        process = self._service.process
        if process is not None:
            self.thaw()
            process.send(signal.SIGINT)
            process.wait_gone(_STOP_GRACE)
        self._service.stop(_STOP_GRACE)

    def kill(self) -> None:
        """kill -9 of every process of it."""
        processes = self._list_processes()
        self._service.kill()
        for process in processes:
            process.kill()

    def freeze(self) -> None:
        """SIGSTOP of every process of it: connections stay open, nothing answers."""
        for process in self._list_processes():
            process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        for process in self._list_processes():
            process.send(signal.SIGCONT)

    def build_url(self, database: str, *, port: int | None = None) -> str:
        """SQLAlchemy URL of one of its databases; over TCP at this port, if one is given, which may be a relay's."""
        if port is not None:
            return f"postgresql+psycopg://{self._account.pw_name}:{self._read_password()}@127.0.0.1:{port}/{database}"
        url = f"postgresql+psycopg://{self._account.pw_name}@/{database}?host={self._files}"
        return f"{url}&port={self._port}" if self._port else url

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """An empty one, or a copy of ``template``, to which nobody may be connected; its URL."""
        self._run("createdb", *self._connection_options, f"--template={template or 'template1'}", name)
        return self.build_url(name)

    def drop_database(self, name: str) -> None:
        self._run("dropdb", *self._connection_options, name)

    def back_up_database(self, name: str) -> None:
        """Dump it while it is in use; an earlier dump of it is replaced."""
        self._run("pg_dump", *self._connection_options, "--format=custom", f"--file={self._get_dump(name)}", name)

    def restore_database(self, name: str) -> None:
        """Make it what it was at its last dump; who is connected to it is thrown out."""
        self._run("dropdb", *self._connection_options, "--force", name)
        self._run("createdb", *self._connection_options, "--template=template0", name)
        self._run("pg_restore", *self._connection_options, "--exit-on-error", f"--dbname={name}", str(self._get_dump(name)))

    def end(self) -> None:
        """Stop it and remove all that it kept."""
        self.stop()
        if self._files.exists():
            shutil.rmtree(self._files)

    @property
    def _cluster(self) -> Path:
        return self._files / "data"

    def _get_dump(self, database: str) -> Path:
        return self._files / f"{database}.dump"

    @property
    def _as_account(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={self._account.pw_uid}", f"--regid={self._account.pw_gid}", "--clear-groups", "--"]

    @property
    def _connection_options(self) -> list[str]:
        options = [f"--host={self._files}", f"--username={self._account.pw_name}"]
        return options + ([f"--port={self._port}"] if self._port else [])

    def _make_cluster(self) -> None:
        try:
            self._files.mkdir(mode=0o700)
        except FileExistsError as error:
            raise StepFailed(f"{self._files} is there already", advice="remove it, or set TMPDIR") from error
        password = self._files / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        for path in (self._files, password):
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--locale=C", "--encoding=UTF8"]
        self._run("initdb", f"--pgdata={self._cluster}", f"--username={self._account.pw_name}", f"--pwfile={password}", *options)

    def _read_password(self) -> str:
        return (self._files / "password").read_text()

    def _answers(self) -> bool:
        argv = [str(self._programs / "pg_isready"), "--quiet", *self._connection_options]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_SECONDS).returncode == 0

    def _run(self, program: str, *options: str) -> None:
        argv = [*self._as_account, str(self._programs / program), *options]
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/", timeout=_TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise StepFailed(f"{program} failed: {done.stderr.strip()}", log=self.log)

    def _list_processes(self) -> list[ProcessId]:
        process = self._service.process
        return [] if process is None else [process, *list_children(process.pid)]


def _find_programs() -> Path:
    found = [path.parent for path in _INSTALLED.glob("*/bin/postgres")] if _INSTALLED.is_dir() else []
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise NotInstalled(f"neither {_INSTALLED} nor PATH has the programs of a PostgreSQL server")
    return (
        max(found, key=lambda path: [int(word) for word in path.parent.name.split(".") if word.isdecimal()])
        if found
        else Path(str(on_path)).parent
    )


def _find_account() -> pwd.struct_passwd:
    """Ours; root takes one that has no rights."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NotInstalled("root must not run PostgreSQL, and there is no account postgres or nobody")
