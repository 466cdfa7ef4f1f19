"""The checks that are no tests of behaviour: style, types, who may import whom, known weaknesses, the wheel in an empty environment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack.audit import NotAudited, WeakLibraries, audit_libraries
from devstack.cache import get_cache_dir, note_use, remove_unused
from devstack.steps import StepFailed, Steps

ROOT = Path(__file__).parent.parent
COMMANDS = ("crashcart-agent", "crashcart-api", "crashcart-engine", "crashcart-manage")
_WHEEL_SOURCES = ("compute_agent", "api_gateway", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.rst", "LICENSE")
_WHEEL_PREFIX = "wheel-"
_BIN = Path(sys.executable).parent
_MYPY = str(_BIN / "mypy")
_TYPED_LIBRARIES = ("falcon", "pydantic", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite")
"""The large ones; any other is read with what imports it."""


@dataclass(frozen=True)
class CheckResult:
    """How one check ended; `output` is what to read when it failed, `skipped` why it proves nothing here."""

    name: str
    passed: bool
    seconds: float
    output: str
    skipped: str = ""


class CheckFailed(Exception):
    """A check does not hold; the message is what to read."""


class CheckSkipped(Exception):
    """A check could not be made on this machine; the message says why."""


def prepare_checks(steps: Steps) -> None:
    """Set-up outside of the time budget: what mypy has read of the libraries, and an environment with nothing but what the wheel needs."""
    _read_types_of_libraries(steps)
    _prepare_wheel_environment(steps)


def _read_types_of_libraries(steps: Steps) -> None:
    """Once: two fifths of what mypy reads in a fresh checkout are not ours. What it cannot read it says when it checks."""
    if (ROOT / ".mypy_cache").is_dir():
        return
    with steps.step("types of the libraries, for mypy"), TemporaryDirectory(dir=get_cache_dir()) as scratch:
        imports = Path(scratch) / "imports.py"
        imports.write_text(f"import {', '.join(_TYPED_LIBRARIES)}\n")
        subprocess.run([_MYPY, str(imports)], cwd=ROOT, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)


def _prepare_wheel_environment(steps: Steps) -> None:
    environment = _get_wheel_environment()
    if environment.is_dir():
        note_use(environment)
        return
    log = get_cache_dir() / "wheel-environment.log"
    with steps.step("environment for the wheel, with its libraries and no extras"), TemporaryDirectory(dir=get_cache_dir()) as scratch:
        wheel = _build_wheel(Path(scratch), log)
        fresh = Path(scratch) / "environment"
        venv.create(fresh, with_pip=False)
        _run_logged([*_pip_for(fresh), "install", str(wheel)], log)
        _run_logged([*_pip_for(fresh), "uninstall", "--yes", "crashcart"], log)
        fresh.rename(environment)
    note_use(environment)
    remove_unused(get_cache_dir(), _WHEEL_PREFIX)


def run_checks() -> list[CheckResult]:
    """Every check, as many at a time as there are processors; they only read the tree."""
    checks: list[tuple[str, Callable[[], None]]] = [
        ("ruff check", lambda: _run([str(_BIN / "ruff"), "check", "."])),
        ("ruff format --check", lambda: _run([str(_BIN / "ruff"), "format", "--check", "."])),
        ("mypy", lambda: _run([_MYPY])),
        ("lint-imports", lambda: _run([str(_BIN / "lint-imports")])),
        ("known weaknesses of libraries", _check_libraries),
        ("wheel in an empty environment", _check_wheel),
    ]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        return list(threads.map(lambda named: _time_check(*named), checks))


def _check_wheel() -> None:
    """The commands answer --help, and the gateway imports, where neither libvirt nor any other extra is installed."""
    log = get_cache_dir() / "wheel.log"
    environment = _get_wheel_environment()
    with TemporaryDirectory(dir=get_cache_dir()) as scratch:
        wheel = _build_wheel(Path(scratch), log)
        try:
            _run_logged([*_pip_for(environment), "install", "--no-deps", "--force-reinstall", str(wheel)], log)
        except StepFailed as error:
            raise CheckFailed(error.explain()) from error
        loaded = "import sys, api_gateway.wsgi; sys.exit(bool({'libvirt', 'pyghmi', 'sushy'} & set(sys.modules)))"
        runs = [
            *([str(environment / "bin" / command), "--help"] for command in COMMANDS),
            [str(environment / "bin/python"), "-c", loaded],
            [*_pip_for(environment), "check"],
        ]
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            # Away from the source tree, which would be imported instead of what is in the wheel.
            list(threads.map(lambda argv: _run(argv, cwd=Path(scratch)), runs))


def _check_libraries() -> None:
    try:
        audit_libraries()
    except WeakLibraries as weak:
        raise CheckFailed(str(weak)) from weak
    except NotAudited as reason:
        raise CheckSkipped(str(reason)) from reason


def _time_check(name: str, check: Callable[[], None]) -> CheckResult:
    started = time.monotonic()
    output = skipped = ""
    try:
        check()
    except CheckFailed as failure:
        output = str(failure)
    except CheckSkipped as reason:
        skipped = str(reason)
    return CheckResult(name, not output and not skipped, time.monotonic() - started, output, skipped)


def _run(argv: list[str], cwd: Path = ROOT) -> None:
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    if done.returncode != 0:
        raise CheckFailed(f"$ {' '.join(argv)}\n{done.stdout}\n(exit {done.returncode})")


def _run_logged(argv: list[str], log: Path) -> None:
    with log.open("a") as output:
        done = subprocess.run(argv, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise StepFailed(f"{' '.join(argv[:4])} … failed", log=log, advice="see whether the package index is reachable")


def _build_wheel(target: Path, log: Path) -> Path:
    """Built from a copy: setuptools keeps a build/ beside the sources, and with it modules that were removed since."""
    source = target / "source"
    source.mkdir()
    for name in _WHEEL_SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    # With the setuptools that is here (extra "test"): to fetch another one takes longer than to build.
    _run_logged([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source)], log)
    return next(target.glob("crashcart-*.whl"))


def _pip_for(environment: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "--python", str(environment / "bin/python")]


def _get_wheel_environment() -> Path:
    key = hashlib.sha256((ROOT / "setup.cfg").read_bytes() + sys.version.encode()).hexdigest()[:12]
    return get_cache_dir() / f"{_WHEEL_PREFIX}{key}"
