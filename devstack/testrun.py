"""Run tiers of tests, each group of tiers within its time budget, and say at the end how many passed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack.checks import ROOT, prepare_checks, run_checks
from devstack.environments import CLIENTS, KEYSTONE
from devstack.guest_image import GuestImages
from devstack.machine_speed import watching_slowness
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.releases import BEFORE
from devstack.standstills import noting_standstills
from devstack.steps import StepFailed, Steps

TESTS = ROOT / "tests"
_MEMORY = Path("/dev/shm")
_LEAST_MEMORY_BYTES = 1 << 30
_TOLD_SLOWER = 1.01
_UNSURE = 0.2
"""How far the measure of a slow machine may be off: what slows one kind of work by a half slows another by two thirds, and a slow disk
or a process that is kept waiting does not show in it at all."""
_MOST_TOLD = 30
_PATIENCE = 2.5
"""How many times as long as usual tests wait for other processes before they give it up: nothing takes longer where nothing fails."""
_TEST_TIMEOUT_SECONDS = 900
"""Of one such test: more than its longest waits then take."""


@dataclass(frozen=True)
class Budget:
    """What tiers may take together, in seconds of the reference machine (``machine_speed.py``), after all set-up."""

    name: str
    seconds: float


QUICK = Budget("check + unit + contract + simulation", 120)
REAL = Budget("conformance + stack", 600)
BARE_METAL = Budget("bare metal", 150)
CONSUMERS = Budget("consumers", 150)
LATER = Budget("clients + upgrade + chaos", 480)
WORLDS = Budget("worlds", 180)
"""20,000 simulated actions in two thirds of it, crashes beside each kind of commit, and planted bugs that worlds must find."""


@dataclass(frozen=True)
class Tier:
    """What lies under tests/ and is run together, but for the files that it ``leaves`` to another tier.

    It runs on all processors if ``shares`` says how: each test by itself (``worksteal``), or the tests of a file after each other
    (``loadfile``), which share real parts that are dear to start. Of those the files of ``first`` begin first: what takes longest must not
    be left for one process at the end. Where tests ``wait`` for other processes most of the time, one more runs than there are
    processors. ``options`` are pytest's, ``in_memory`` is where the tests' files lie.
    """

    name: str
    budget: Budget
    paths: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    needs_real_parts: bool = False
    shares: str | None = None
    first: tuple[str, ...] = ()
    wait: bool = False
    options: tuple[str, ...] = ()
    in_memory: bool = False

    @property
    def runs_processes(self) -> bool:
        """Whether what its tests wait for is other processes' work: how long that takes is a matter of the machine, not of the tests."""
        return self.budget not in (QUICK, WORLDS)

    def list_paths(self) -> list[Path]:
        """Directories, or each file in the order in which it begins."""
        found = [TESTS / path for path in self.paths or (self.name,) if (TESTS / path).exists()]
        if not self.first:
            return found
        left = [TESTS / path for path in self.leaves]
        files = sorted(file for path in found for file in ([path] if path.is_file() else path.rglob("test_*.py")) if file not in left)
        order = {f"test_{name}.py": place for place, name in enumerate(self.first)}
        return sorted(files, key=lambda file: order.get(file.name, len(order)))

    def list_options(self) -> list[str]:
        """All of pytest's."""
        options = [*self.options, *(f"--ignore={TESTS / path}" for path in self.leaves)]
        if self.name != "clients":  # the only one with schemathesis, whose plug-in would take each process longer to load than pytest
            options += ["-p", "no:schemathesis"]
        if self.runs_processes:
            options.append(f"--timeout={_TEST_TIMEOUT_SECONDS}")
        processors = len(os.sched_getaffinity(0))
        if self.shares is not None and (processors > 1 or self.wait):
            options += [f"--numprocesses={processors + 1 if self.wait else processors}", f"--dist={self.shares}"]
            options += ["--no-loadscope-reorder"] if self.first else []
        return options


_CONSUMERS = tuple(f"stack/test_{name}.py" for name in ("consumer_examples", "consumer_over_broker", "deliveries", "event_stream", "tail"))
"""They try what others consume events with."""
_PROGRAMS = ("unit/gateway/test_http_serving.py", "unit/test_start_up.py")
"""They start programs again and again, each of which loads for a second."""
_REDFISH = "conformance/test_redfish.py"
"""Its machines are bare metal too, whose tier has the time for it."""
_LONG_SIMULATIONS = tuple(
    f"simulation/test_{name}.py" for name in ("crash_points", "planted_bugs", "planted_bugs_outages", "planted_bugs_rare")
)
"""They play a world, or many, for each of their tests."""

TIERS = {
    tier.name: tier
    for tier in (
        Tier("check", QUICK),
        Tier("unit", QUICK, ("unit", "http"), leaves=_PROGRAMS, shares="worksteal", in_memory=True),
        Tier("contract", QUICK, shares="worksteal", in_memory=True),
        Tier("simulation", QUICK, shares="worksteal", leaves=_LONG_SIMULATIONS, in_memory=True),
        Tier(
            "conformance",
            REAL,
            leaves=(_REDFISH,),
            needs_real_parts=True,
            shares="loadfile",
            first=("libvirt_real", "libvirt", "libvirt_watchdogs_real", "ipmi", "libvirt_diagnostics_real"),
        ),
        Tier(
            "stack",
            REAL,
            leaves=_CONSUMERS,
            needs_real_parts=True,
            shares="loadfile",
            # Not all that boot guests at the same time: that is what takes a processor.
            first=(
                *("real_guests", "engine_over_broker", "watchdogs", "scenarios", "watchdog_faults"),
                *("agent_over_broker", "diagnostics", "store_contention"),
            ),
            wait=True,
        ),
        Tier(
            "bare_metal",
            BARE_METAL,
            ("bare_metal", _REDFISH),
            needs_real_parts=True,
            shares="loadfile",
            first=("redfish", "crash_dumps", "inventory"),
        ),
        Tier("consumers", CONSUMERS, _CONSUMERS, needs_real_parts=True, shares="loadfile", first=("consumer_over_broker", "event_stream")),
        Tier("clients", LATER, ("clients", *_PROGRAMS), shares="loadfile", first=("commands", "openapi_fuzz", "tempest")),
        Tier("upgrade", LATER, needs_real_parts=True),
        Tier("chaos", LATER, needs_real_parts=True),
        # What of the simulation the quick tiers have no time for.
        Tier(
            "worlds",
            WORLDS,
            ("simulation/test_seeds.py", *_LONG_SIMULATIONS),
            shares="worksteal",
            options=("--seeds=1-87", "--least-actions=20000", "-k", "not replays and not another_run"),
            in_memory=True,
        ),
    )
}
_EXPECTED = ("check", "unit", "contract", "simulation", "conformance", "stack", "bare_metal", "consumers", "clients", "upgrade")


class Verdict(StrEnum):
    """On the time that tiers took, against their budget."""

    KEPT = "kept"
    UNSURE = "over, by no more than the measure of the machine may be off"
    EXCEEDED = "EXCEEDED"


@dataclass
class Spent:
    """How long tiers took: here, and as long as the reference machine takes for as much."""

    seconds: float = 0.0
    reference_seconds: float = 0.0

    def add(self, seconds: float, slowness: float) -> None:
        self.seconds += seconds
        self.reference_seconds += seconds / slowness


@dataclass
class Outcome:
    """Counts of one or more tiers, and a line for each thing that ``failed``."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    spent: dict[Budget, Spent] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """Take in what ``other`` counted; not its time."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def spend(self, budget: Budget, seconds: float, slowness: float = 1.0) -> None:
        self.spent.setdefault(budget, Spent()).add(seconds, slowness)


def run_tests(suites: list[str], *, all_suites: bool, state_dir: Path) -> int:
    """Run what is asked for, by default every tier that belongs in each change; the exit code.

    Non-zero when anything failed, when no test ran, or when tiers took longer than their budget, for sure. Raises StepFailed
    for a suite that does not exist and for set-up that fails.
    """
    steps = Steps()
    tiers = _choose_tiers(suites)
    paths = [_make_absolute(suite) for suite in suites if suite not in TIERS]
    results = state_dir / "test-results"
    results.mkdir(parents=True, exist_ok=True)
    _set_up(steps, tiers)

    outcome = Outcome()
    for tier in tiers:
        steps.say(f"\n=== {tier.name}")
        standstills: list[float] = []
        started = time.monotonic()
        with noting_standstills(standstills.append), watching_slowness() as slowness:
            if tier.name == "check":
                _run_checks(outcome, steps)
            else:
                tests = [str(path) for path in tier.list_paths()]
                options, patience = tier.list_options(), _PATIENCE if tier.runs_processes else 1
                _run_pytest(outcome, tier.name, tests, results, all_suites, options, in_memory=tier.in_memory, patience=patience)
        if standstills:
            steps.say(f"the machine stood still for {sum(standstills):.1f} s meanwhile, which count against no budget")
        seconds = time.monotonic() - started - sum(standstills)
        outcome.spend(tier.budget, seconds, slowness.rate())
    if paths:
        _run_pytest(outcome, "paths", paths, results, all_suites)
    return _conclude(outcome, steps)


def _choose_tiers(suites: list[str]) -> list[Tier]:
    unknown = [suite for suite in suites if suite not in TIERS and not Path(suite.partition("::")[0]).exists()]
    if unknown:
        raise StepFailed(f"no such tier: {', '.join(unknown)}", advice=f"choose of: {', '.join(TIERS)}; or give paths of tests")
    if suites:
        return [TIERS[suite] for suite in suites if suite in TIERS]
    # A tier of a later release counts from the day on which its directory exists.
    return [tier for tier in TIERS.values() if tier.name in _EXPECTED or tier.list_paths()]


def _make_absolute(path: str) -> str:
    file, separator, test = path.partition("::")
    return str(Path(file).resolve()) + separator + test


def _set_up(steps: Steps, tiers: list[Tier]) -> None:
    if any(tier.name == "check" for tier in tiers):
        prepare_checks(steps)
    if any(tier.name == "clients" for tier in tiers):
        _install_clients(steps)
    if any(tier.name == "upgrade" for tier in tiers):
        BEFORE.ensure(steps)
    if any(tier.name != "check" for tier in tiers):
        _compile_tests(steps)
    if any(tier.needs_real_parts for tier in tiers):
        missing = list_missing_parts()
        if missing and not may_skip_real_tests():
            raise StepFailed(f"missing: {', '.join(missing)}", advice="CI=true demands the real parts; see bootstrap.sh")
        if not missing:
            with steps.step("guest image"):
                GuestImages().ensure()


def _compile_tests(steps: Steps) -> None:
    """Once: pytest keeps what it makes of a file beside it; in a fresh checkout each process of the first tier would make it by itself.

    A file that cannot be read fails the tier that it belongs to.
    """
    if any(TESTS.rglob(f"__pycache__/*.{sys.implementation.cache_tag}-pytest-{version('pytest')}.pyc")):
        return
    with steps.step("tests compiled"):
        subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-qq", str(TESTS)], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
        )


def _install_clients(steps: Steps) -> None:
    """Without a package index the tests that need them are skipped; in CI that would prove nothing."""
    try:
        for environment in (CLIENTS, KEYSTONE):
            environment.ensure(steps)
    except StepFailed as failure:
        if not may_skip_real_tests():
            raise
        steps.say(failure.explain())


def _run_checks(outcome: Outcome, steps: Steps) -> None:
    for result in run_checks():
        verdict = f"SKIPPED: {result.skipped}" if result.skipped else "passed" if result.passed else "FAILED"
        steps.say(f"[{result.seconds:7.1f} s] {result.name}: {verdict}")
        if result.skipped:
            outcome.skipped += 1
        elif result.passed:
            outcome.passed += 1
        else:
            outcome.failed.append(f"check: {result.name}")
            steps.say(result.output)


def _run_pytest(
    outcome: Outcome,
    name: str,
    paths: list[str],
    results: Path,
    all_suites: bool,
    options: Sequence[str] = (),
    *,
    in_memory: bool = False,
    patience: float = 1,
) -> None:
    report = results / f"{name}.xml"
    report.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", f"--junitxml={report}", *paths, *options]
    environment = {"CRASHCART_PATIENCE": str(patience)} | os.environ | ({"CRASHCART_TEST_ALL": "1"} if all_suites else {})
    if not paths:
        code = 5
    elif in_memory:
        with _files_in_memory() as (places, variables):
            code = subprocess.run([*argv, *places], cwd=ROOT, env=environment | variables).returncode
    else:
        code = subprocess.run(argv, cwd=ROOT, env=environment).returncode
    counted = _read_report(report)
    outcome.add(counted)
    # Also when pytest itself broke, was interrupted, or found nothing to run (5): that proves nothing.
    if code != 0 and not counted.failed:
        outcome.failed.append(f"{name}: pytest ended with exit code {code}")
    if code == 5:
        print(f"{name}: no test ran", flush=True)


@contextmanager
def _files_in_memory() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Options of pytest and environment variables with which the tests' files lie in memory, until the block ends.

    They commit thousands of times; how long a disk takes for that is no matter of theirs. One test that is named by its path leaves its
    files where pytest usually does. Nothing changes where there is little such memory, as in many containers.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _LEAST_MEMORY_BYTES:
        yield [], {}
        return
    with TemporaryDirectory(prefix="crashcart-", dir=_MEMORY) as directory:
        os.chmod(directory, 0o711)  # for the account to which root gives PostgreSQL
        yield [f"--basetemp={directory}/t"], {"TMPDIR": directory}


def _read_report(report: Path) -> Outcome:
    outcome = Outcome()
    if not report.exists():
        return outcome
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        troubles = [*case.iter("failure"), *case.iter("error")]
        if troubles:
            message = (troubles[0].get("message") or "").partition("\n")[0]
            outcome.failed.append(f"{case.get('classname')}::{case.get('name')}: {message}")
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    return outcome


def _conclude(outcome: Outcome, steps: Steps) -> int:
    """Say what was spent and what failed, last of all: a log that is too long to be kept whole is kept from its end."""
    steps.say("\n=== time budgets, after set-up")
    for budget, spent in outcome.spent.items():
        verdict, slower = _judge(budget, spent)
        allowance = f" (times {slower:.2f}, for this machine is that much slower)" if slower >= _TOLD_SLOWER else ""
        told = f"{spent.seconds:7.1f} s of {budget.seconds:.0f} s{allowance}  {budget.name}: {verdict}"
        steps.say(told)
        if verdict is Verdict.EXCEEDED:
            outcome.failed.append(f"time budget: {told.strip()}")
    if outcome.failed:
        steps.say("\n=== failed")
        for line in outcome.failed[:_MOST_TOLD]:
            steps.say(textwrap.shorten(line, 300, placeholder=" ..."))
        if len(outcome.failed) > _MOST_TOLD:
            steps.say(f"and {len(outcome.failed) - _MOST_TOLD} more, see above")
    steps.say("")
    steps.say(f"{outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped")
    return 0 if not outcome.failed and outcome.passed > 0 else 1


def _judge(budget: Budget, spent: Spent) -> tuple[Verdict, float]:
    """What is to be said of the time that tiers took, and how many times as slow as the reference the machine was for it."""
    slower = spent.seconds / spent.reference_seconds if spent.reference_seconds else 1.0
    if spent.reference_seconds <= budget.seconds:
        return Verdict.KEPT, slower
    if spent.reference_seconds <= budget.seconds * (1 + _UNSURE):
        return Verdict.UNSURE, slower
    return Verdict.EXCEEDED, slower
