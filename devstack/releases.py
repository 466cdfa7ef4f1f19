"""Releases of the past, built from git and installed each in an environment of its own, to run beside what is being worked on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devstack.cache import get_cache_dir, note_use, remove_unused
from devstack.checks import ROOT
from devstack.deployment import Installation
from devstack.steps import StepFailed, Steps

_PREFIX = "release-"
_BORROWED = ("tests", "devstack")
_SELF_CHECK = """
import sys, compute_agent, api_gateway
from compute_agent.contract.versions import VERSION
places = [module.__file__ for module in (compute_agent, api_gateway)]
is_itself = VERSION == sys.argv[1] and all(place.startswith(sys.prefix) for place in places)
sys.exit(None if is_itself else f"{VERSION} out of {places}")
"""


@dataclass(frozen=True)
class Release:
    """One of them: its version, and the commit that it was made from.

    Nothing of it is downloaded: its libraries are those of the running environment, everything of crashcart's own is the release's.
    """

    version: str
    commit: str

    @property
    def name(self) -> str:
        """The first two numbers of its version: what its agents say of themselves."""
        return self.version.rpartition(".")[0]

    @property
    def directory(self) -> Path:
        shared = [str(path) for path in list_site_packages()]
        key = hashlib.sha256("\n".join([self.commit, sys.version, *shared]).encode()).hexdigest()[:12]
        return get_cache_dir() / f"{_PREFIX}{key}"

    @property
    def python(self) -> Path:
        return self.directory / "bin/python"

    @property
    def installation(self) -> Installation:
        """Its commands; the tree that is being worked on is in no path of theirs."""
        return Installation(self.directory / "bin", {"PYTHONPATH": ""})

    @property
    def test_environment(self) -> dict[str, str]:
        """Variables with which its interpreter also finds its modules ``tests`` and ``devstack``, which belong to no installation."""
        return {"PYTHONPATH": str(self.directory / "borrowed")}

    def ensure(self, steps: Steps) -> None:
        """Build and install it unless it is there (about 6 s). May be called by several processes at the same time.

        :raises StepFailed: this is no clone, or one that does not reach back so far, or it cannot be built.
        """
        cache = get_cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{_PREFIX}{self.version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._mark.exists():
                with steps.step(f"release {self.version}, installed from git"):
                    self._install(cache / f"{_PREFIX}{self.version}.log")
                remove_unused(cache, _PREFIX)
            note_use(self.directory)

    @property
    def _mark(self) -> Path:
        """Made last: without it an installation was interrupted."""
        return self.directory / ".complete"

    def _install(self, log: Path) -> None:
        log.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        # In its final place from the start: the scripts of an environment name its path.
        venv.create(self.directory, with_pip=False)
        tree = self.directory / "tree"
        self._unpack(tree, log)
        share_libraries(self.directory, list_site_packages())
        self._install_tree(tree, log)
        borrowed = self.directory / "borrowed"
        borrowed.mkdir()
        for name in _BORROWED:
            (tree / name).rename(borrowed / name)
        shutil.rmtree(tree)
        self._check(log)
        self._mark.touch()

    def _unpack(self, tree: Path, log: Path) -> None:
        git = ["git", "-C", str(ROOT)]
        if not _run([*git, "rev-parse", "--git-dir"], log):
            advice = "run this in a clone of the repository: the release is taken out of its history"
            raise StepFailed(f"release {self.version} is not to be had: {ROOT} is no clone", log=log, advice=advice)
        if not _run([*git, "cat-file", "-e", f"{self.commit}^{{commit}}"], log):
            what = f"this clone does not have release {self.version} (commit {self.commit})"
            raise StepFailed(what, log=log, advice="fetch the whole history: git fetch --unshallow --tags")
        archive = tree.with_suffix(".tar")
        tree.mkdir()
        for argv in (
            [*git, "archive", "--format=tar", f"--output={archive}", self.commit],
            ["tar", "--extract", f"--file={archive}", f"--directory={tree}", "--no-same-owner"],
        ):
            if not _run(argv, log):
                raise StepFailed(f"release {self.version} could not be taken out of the history", log=log, advice="read the log")
        archive.unlink()

    def _install_tree(self, tree: Path, log: Path) -> None:
        # What the running environment has of crashcart is seen from here: it must be left alone, hence --ignore-installed.
        options = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--no-warn-script-location"]
        if not _run([sys.executable, "-m", "pip", "--python", str(self.python), "install", *options, str(tree)], log):
            advice = "read the log; if setuptools is missing or old: pip install -e '.[test]'"
            raise StepFailed(f"release {self.version} could not be installed", log=log, advice=advice)

    def _check(self, log: Path) -> None:
        """Two releases that are one would prove nothing."""
        if not _run([str(self.python), "-c", _SELF_CHECK, self.version], log):
            what = f"what was installed as release {self.version} is another one"
            raise StepFailed(what, log=log, advice="the log says where it is imported from")


BEFORE = Release("1.0.0", "868fb3a9a212a13b5baf284dfb49e9a5ae376d13")
"""The release before the one that is being worked on. It is tagged, too; what counts is the commit, which only a shallow clone lacks."""


def list_site_packages() -> list[Path]:
    """The directories from which this interpreter imports libraries, in their order."""
    return [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]


def share_libraries(environment: Path, directories: Iterable[Path]) -> None:
    """Have a virtual environment import from those directories what it does not have itself.

    What is installed there by reference (``pip install --editable``) is not seen: only of an environment's own directory
    does Python read the files that say so.
    """
    own = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (own / "shared-libraries.pth").write_text("".join(f"{path}\n" for path in directories))


def _run(argv: list[str], log: Path) -> bool:
    """Whether it went well; what it said is in ``log``."""
    with log.open("a") as output:
        output.write(f"$ {' '.join(argv)}\n")
        output.flush()
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(argv, env=variables, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return done.returncode == 0
