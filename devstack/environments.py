"""Virtual environments for software that is not ours: real clients and a real Keystone, installed once and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from devstack.cache import get_cache_dir
from devstack.steps import StepFailed, Steps


@dataclass(frozen=True)
class Environment:
    """What `requirements` names, installed from the package index; a changed file is a new environment."""

    name: str
    requirements: Path

    @property
    def directory(self) -> Path:
        key = hashlib.sha256(self.requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
        return get_cache_dir() / f"{self.name}-{key}"

    @property
    def python(self) -> Path:
        return self.directory / "bin/python"

    @property
    def is_installed(self) -> bool:
        return self._mark.exists()

    def ensure(self, steps: Steps) -> None:
        """Install it unless it is there (about 25 s); raises StepFailed. May be called by several processes at the same time."""
        get_cache_dir().mkdir(parents=True, exist_ok=True)
        with (get_cache_dir() / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_installed:
                return
            with steps.step(f"environment {self.name}, from the package index"):
                self._install()

    @property
    def _mark(self) -> Path:
        """Made last: without it an installation was interrupted."""
        return self.directory / ".complete"

    def _install(self) -> None:
        log = get_cache_dir() / f"{self.name}.log"
        shutil.rmtree(self.directory, ignore_errors=True)
        # In its final place from the start: the scripts of an environment name its path.
        venv.create(self.directory, with_pip=False)
        argv = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--requirement", str(self.requirements)]
        with log.open("w") as output:
            done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise StepFailed(f"installing {self.requirements.name} failed", log=log, advice="see whether the package index is reachable")
        self._mark.touch()


_HERE = Path(__file__).parent
CLIENTS = Environment("clients", _HERE / "requirements-clients.txt")
KEYSTONE = Environment("keystone", _HERE / "requirements-keystone.txt")
