"""Faults are begun and ended in time, also when the run is given up, and what fails of one is written down."""

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from devstack.services import Service, wait_until
from devstack.steps import Steps
from tests.chaos.faults import Fault, Scene
from tests.chaos.history import History, What, read_lines
from tests.chaos.schedule import Strike
from tests.chaos.striker import Striker
from tests.chaos.system import ChaosSystem


class Noted(Fault):
    name = "noted"

    def __init__(self) -> None:
        self.done: list[str] = []

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return ["agent:host-1"]

    def begin(self, scene: Scene, target: str) -> None:
        self.done.append("begun")

    def end(self, scene: Scene, target: str) -> None:
        self.done.append("undone")


class Impossible(Noted):
    def begin(self, scene: Scene, target: str) -> None:
        raise OSError("it is not there")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(Mock(spec=ChaosSystem, hosts={}), History(tmp_path / "history.jsonl"), "1")


def strike(scene: Scene, fault: Fault, seconds: float) -> Striker:
    striker = Striker(scene, {fault.name: fault}, Mock(spec=Steps))
    striker.strike(Strike(1, fault.name, "agent:host-1", 0.0, seconds))
    return striker


def list_phases(scene: Scene) -> list[tuple[str, str]]:
    lines = [line for line in read_lines(scene.history.path) if line["what"] == What.FAULT]
    return [(line["phase"], line.get("text", "")) for line in lines]


def test_a_fault_is_undone_before_it_is_over(scene: Scene) -> None:
    fault = Noted()
    strike(scene, fault, 0.0)._threads[0].join()
    assert fault.done == ["begun", "undone"]
    assert list_phases(scene) == [("begins", ""), ("over", "")]


@pytest.mark.timeout(10)
def test_a_run_that_is_given_up_waits_for_no_fault_and_leaves_none(scene: Scene) -> None:
    fault = Noted()
    strike(scene, fault, 3600.0).stop()
    assert fault.done in ([], ["begun", "undone"])


def test_a_fault_that_cannot_be_made_is_undone_and_written_down(scene: Scene) -> None:
    fault = Impossible()
    strike(scene, fault, 0.0)._threads[0].join()
    assert fault.done == ["undone"]
    assert list_phases(scene) == [("begins", ""), ("failed", "OSError('it is not there')")]


@pytest.mark.parametrize(("is_running", "revived"), [(True, False), (False, True)])
def test_what_ended_by_itself_is_started_again(scene: Scene, tmp_path: Path, is_running: bool, revived: bool) -> None:
    log = tmp_path / "engine.log"
    log.write_text("it runs\ncrashcart-engine: disk I/O error\n")
    engine = Mock(spec=Service, is_running=is_running, log=log)
    scene.system.parts = {"engine": engine}  # type: ignore[misc]
    Striker(scene, {}, Mock(spec=Steps)).revive()
    assert engine.start.called == revived
    told = [line["text"] for line in read_lines(scene.history.path) if line["what"] == What.REVIVED] if revived else []
    assert told == ["crashcart-engine: disk I/O error"] * revived


def test_what_a_fault_holds_is_not_started_again(scene: Scene, tmp_path: Path) -> None:
    agent = Mock(spec=Service, is_running=False, log=tmp_path / "agent.log")
    scene.system.parts = {"agent:host-1": agent}  # type: ignore[misc]
    fault = Noted()
    striker = strike(scene, fault, 60.0)
    wait_until(lambda: fault.done, 5.0, "the fault")
    striker.revive()
    striker.stop()
    assert not agent.start.called
