"""What the private database servers have in common: whose files they are, how they start, and how their programs are run."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from devstack.services import Service, ServiceOwner
from devstack.steps import StepFailed

TIMEOUT_SECONDS = 60
STOP_GRACE = 20.0


class PrivateDatabase(ServiceOwner):
    """One server; found again by any later object with the same directory.

    :param home: where its rows, its password and its dumps lie
    :param argv: the server's command line
    """

    name: str

    def __init__(self, directory: Path, home: Path, argv: Sequence[str]) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / "server.log"
        self._home = home
        self._service = Service(self.name, argv, log=self.log, record=self.directory / "server.pid", cwd=Path("/"))

    def start(self) -> None:
        """Start and wait until it answers; raises StepFailed. What it had before is there again; what an interrupted first start left
        half made is made anew."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_new = not self.whole.exists()
        if is_new:
            self.kill()
            self._remove_files()
            self._make_files()
        self._prepare_start()
        self._service.start()
        self._service.wait_ready(self._answers, TIMEOUT_SECONDS, "it answers on its socket", advice="read the log")
        if is_new:
            self._make_accounts()
            self.whole.touch()

    def stop(self) -> None:
        """An orderly stop that waits for no client."""
        self._service.stop(STOP_GRACE)

    def end(self) -> None:
        """Stop it and remove all that it kept."""
        self.stop()
        self._remove_files()

    @property
    def _rows(self) -> Path:
        return self._home / "data"

    @property
    def whole(self) -> Path:
        """Says that its files are all there: a first start came to its end."""
        return self._home / "whole"

    @property
    def _password(self) -> Path:
        return self._home / "password"

    @abstractmethod
    def _make_files(self) -> None: ...

    @abstractmethod
    def _remove_files(self) -> None:
        """All that it kept, of which nothing need be there."""

    @abstractmethod
    def _prepare_start(self) -> None: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _make_accounts(self) -> None:
        """It has started for the first time."""

    def _get_dump(self, database: str) -> Path:
        return self._home / f"{database}.dump"

    def _make_password(self) -> None:
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_urlsafe(24))

    def _read_password(self) -> str:
        return self._password.read_text()

    def _run(self, argv: Sequence[str], *, stdin: IO[str] | None = None, stdout: IO[str] | None = None) -> str:
        """Run a program of the database's and return what it prints, unless that goes into a file; raises StepFailed."""
        done = subprocess.run(
            argv,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            timeout=TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            raise StepFailed(f"{name_program(argv)} failed: {done.stderr.strip()}", log=self.log)
        return done.stdout or ""


def name_program(argv: Sequence[str]) -> str:
    """Without what runs it as another account."""
    return Path(argv[argv.index("--") + 1 if "--" in argv else 0]).name


def remove_tree(directory: Path) -> None:
    """A directory with all that is in it, if it is there."""
    if directory.exists():
        shutil.rmtree(directory)
