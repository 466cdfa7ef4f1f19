"""A private PostgreSQL server: its own files, socket and, if wanted, port of 127.0.0.1; no service of the machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from devstack.private_database import STOP_GRACE, TIMEOUT_SECONDS, PrivateDatabase, remove_tree
from devstack.services import ProcessId, list_children
from devstack.short_path import ShortPath
from devstack.steps import NotInstalled, StepFailed

_INSTALLED = Path("/usr/lib/postgresql")
_SETTINGS = ("shared_buffers=32MB", "max_connections=200", "logging_collector=off", "log_min_messages=warning")
_NOT_DURABLE = ("fsync=off", "full_page_writes=off")
"""What was committed survives the server, not the machine."""


class PrivatePostgreSQL(PrivateDatabase):
    """PostgreSQL's.

    PostgreSQL refuses to be root's. Root's server belongs to an account that has no rights, so its files lie in a directory of that
    account beside the other temporary files, and `directory` has the log and what it takes to find it.

    :param port: of 127.0.0.1; None: it is reached through its socket alone
    :param durable: a commit waits for the disk, as in real use
    :raises NotInstalled: there are no programs of such a server, or no account to run them.
    """

    name = "PostgreSQL"

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = False) -> None:
        self._programs = _find_programs()
        self._account = _find_account()
        self._port = port
        own = ShortPath(directory.resolve()).path
        home = own.with_name(f"{own.name}-files")
        listen = ("listen_addresses=127.0.0.1", f"port={port}") if port else ("listen_addresses=",)
        settings = (f"unix_socket_directories={home}", *listen, *_SETTINGS, *(() if durable else _NOT_DURABLE))
        argv = [*self._make_command("postgres"), "-D", str(home / "data"), *(f"--{setting}" for setting in settings)]
        super().__init__(directory, home, argv)

    def stop(self) -> None:
        process = self._service.process
        if process is not None:
            self.thaw()
            process.send(signal.SIGINT)
            process.wait_gone(STOP_GRACE)
        super().stop()

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
        url = f"postgresql+psycopg://{self._account.pw_name}@/{database}?host={self._home}"
        return f"{url}&port={self._port}" if self._port else url

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """An empty one, or a copy of ``template``, to which nobody may be connected; its URL."""
        self._run_client("createdb", f"--template={template or 'template1'}", name)
        return self.build_url(name)

    def drop_database(self, name: str) -> None:
        self._run_client("dropdb", name)

    def back_up_database(self, name: str) -> None:
        """Dump it while it is in use; an earlier dump of it is replaced."""
        self._run_client("pg_dump", "--format=custom", f"--file={self._get_dump(name)}", name)

    def restore_database(self, name: str) -> None:
        """Make it what it was at its last dump; who is connected to it is thrown out."""
        self._run_client("dropdb", "--force", name)
        self._run_client("createdb", "--template=template0", name)
        self._run_client("pg_restore", "--exit-on-error", f"--dbname={name}", str(self._get_dump(name)))

    @property
    def _connection_options(self) -> list[str]:
        options = [f"--host={self._home}", f"--username={self._account.pw_name}"]
        return options + ([f"--port={self._port}"] if self._port else [])

    def _make_files(self) -> None:
        self._home.mkdir(mode=0o700)
        self._make_password()
        for path in (self._home, self._password):
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--locale=C", "--encoding=UTF8"]
        account = [f"--username={self._account.pw_name}", f"--pwfile={self._password}"]
        self._run([*self._make_command("initdb"), f"--pgdata={self._rows}", *account, *options])

    def _remove_files(self) -> None:
        if self._home.exists() and self._home.stat().st_uid not in (os.geteuid(), self._account.pw_uid):
            raise StepFailed(f"{self._home} belongs to somebody else", advice="remove it, or set TMPDIR")
        remove_tree(self._home)

    def _prepare_start(self) -> None:
        # Left by one that was killed; its number may be another process's by now, and PostgreSQL would wait for that one.
        (self._rows / "postmaster.pid").unlink(missing_ok=True)

    def _make_accounts(self) -> None:
        """initdb has."""

    def _answers(self) -> bool:
        argv = [str(self._programs / "pg_isready"), "--quiet", *self._connection_options]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS).returncode == 0

    def _run_client(self, program: str, *options: str) -> None:
        self._run([*self._make_command(program), *self._connection_options, *options])

    def _make_command(self, program: str) -> list[str]:
        """As its account."""
        path = str(self._programs / program)
        if os.geteuid() != 0:
            return [path]
        return ["setpriv", f"--reuid={self._account.pw_uid}", f"--regid={self._account.pw_gid}", "--clear-groups", "--", path]

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
