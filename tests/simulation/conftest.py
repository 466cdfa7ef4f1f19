"""The template database (tables made once), a folder in memory, ``--seed`` to replay one seed, and what many worlds must have had."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent import looks
from tests.databases import write_database
from tests.simulation.probes import WANTED, Hits, list_unvisited, tell

USUAL_SEEDS = "0-199" if os.environ.get("CRASHCART_TEST_ALL") else "0-0"
"""The worlds that the tier ``simulation`` goes through, and with ``--all``; those behind them are the tier ``worlds``."""
_ENOUGH_WORLDS = 40
"""So many must have been everywhere: those of the tier ``worlds``, a run of ``--seeds 0-39`` or more, or one with ``--all``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="replay this one seed of the simulation and print its history")
    parser.addoption("--seeds", default=USUAL_SEEDS, help="first and last seed of the simulation, as 0-199")
    parser.addoption("--least-actions", type=int, default=0, help="fail when fewer actions were accepted in all worlds together")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    # Both are known only when this folder is named on the command line.
    one = metafunc.config.getoption("--seed", default=None)
    first, last = metafunc.config.getoption("--seeds", default=USUAL_SEEDS).split("-")
    metafunc.parametrize("seed", [one] if one is not None else range(int(first), int(last) + 1))


@pytest.fixture(autouse=True)
def _patient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks run on threads and are waited for by the real clock, which a world knows nothing of."""
    monkeypatch.setattr(looks, "LOOK_LIMIT", 600.0)


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A gateway database without a row."""
    with _memory_folder() as folder:
        yield write_database(folder / "template.sqlite")


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the files of one run: in memory, because a simulated crash never loses what SQLite has committed."""
    with _memory_folder() as path:
        yield path


class _memory_folder:
    def __enter__(self) -> Path:
        memory = Path("/dev/shm")
        self._path = Path(tempfile.mkdtemp(prefix="crashcart-simulation-", dir=memory if memory.is_dir() else None))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Worlds in which nothing strikes, or nobody asks for anything, prove nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    if _find_lacks(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many actions the worlds had, and what struck where."""
    worlds, actions, hits = _sum_up(terminalreporter)
    if not worlds:
        return
    terminalreporter.section("probes of the simulation")
    for line in (f"{actions} actions were accepted in {worlds} worlds", *tell(hits)):
        terminalreporter.write_line(line)
    for lack in _find_lacks(terminalreporter):
        terminalreporter.write_line(f"FAILED: {lack}", red=True)


def _find_lacks(reporter: Any) -> list[str]:
    """What all worlds together have too little of: many of them must have been everywhere, and as busy as was asked for."""
    worlds, actions, hits = _sum_up(reporter)
    lacks = []
    least = reporter.config.getoption("--least-actions", default=0)
    if worlds and actions < least:
        lacks.append(f"{actions} actions were accepted, not {least}: play more worlds")
    unvisited = list_unvisited(hits)
    if worlds >= _ENOUGH_WORLDS and unvisited:
        lacks.append(f"hit less than {WANTED} times: {', '.join(unvisited)}")
    return lacks


def _sum_up(reporter: Any) -> tuple[int, int, Hits]:
    """Worlds, accepted actions and hits, of all processes that ran tests."""
    hits: Hits = Counter()
    worlds = actions = 0
    for report in (*reporter.stats.get("passed", ()), *reporter.stats.get("failed", ())):
        properties = dict(report.user_properties)
        if report.when == "call" and "hits" in properties:
            worlds += 1
            actions += properties["actions"]
            for point, fault, count in json.loads(properties["hits"]):
                hits[point, fault] += count
    return worlds, actions, hits
