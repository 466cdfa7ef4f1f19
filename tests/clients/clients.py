"""Real clients in their own environment, called as a shell calls them."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.environments import CLIENTS

_RUNNER = Path(__file__).with_name("client_runner.py")
_LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Output:
    """What somebody at the terminal sees."""

    code: int
    stdout: str
    stderr: str

    def expect(self, code: int = 0) -> "Output":
        """Itself when the exit code is this one."""
        assert self.code == code, f"exit code {self.code}, not {code}\n{self.stdout}\n{self.stderr}"
        return self


class Clients:
    """Each call has an environment of nothing but what it is given, and a home directory without any configuration."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runner = subprocess.Popen(
            [CLIENTS.python, str(_RUNNER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._make_environment({})
        )

    def close(self) -> None:
        assert self._runner.stdin is not None
        self._runner.stdin.close()
        self._runner.wait(_LIMIT_SECONDS)

    def run(self, environ: Mapping[str, str], *argv: str) -> Output:
        """In a fork of a process that has the clients imported; ``argv[0]`` is ``nova``, ``openstack`` or a script's path."""
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        stdout, stderr = self._directory / "stdout", self._directory / "stderr"
        request = {
            "argv": argv,
            "environ": self._make_environment(environ),
            "cwd": str(self._directory),
            "stdout": str(stdout),
            "stderr": str(stderr),
        }
        self._runner.stdin.write(json.dumps(request) + "\n")
        self._runner.stdin.flush()
        answer = self._runner.stdout.readline()
        assert answer, "the runner of the clients ended"
        return Output(json.loads(answer), stdout.read_text(), stderr.read_text())

    def start(self, environ: Mapping[str, str], *argv: str) -> Output:
        """As a process of its own: the installed command."""
        done = subprocess.run(
            [CLIENTS.directory / "bin" / argv[0], *argv[1:]],
            env=self._make_environment(environ),
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        return Output(done.returncode, done.stdout, done.stderr)

    def _make_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._directory),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "300",
            "PYTHONWARNINGS": "ignore",
            "no_proxy": "127.0.0.1",
            **environ,
        }
