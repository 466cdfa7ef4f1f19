"""What the mutation run tries, and what it tells of the results, without the hours that they take."""

import tomllib
from pathlib import Path

import pytest

from devstack import mutation
from devstack.checks import ROOT
from devstack.mutation import Mutation
from devstack.mutation_changes import Change
from devstack.mutation_parts import PARTS
from devstack.steps import Steps


@pytest.mark.parametrize("name", PARTS)
def test_the_modules_that_keep_the_promises_are_changed_and_tests_of_them_selected(name: str) -> None:
    settings = tomllib.loads(mutation._write_settings(PARTS[name], Path("/selected")))["tool"]["mutmut"]
    package = PARTS[name].package
    assert {f"{package}/{module.replace('*', '')}.py" for module in PARTS[name].modules} <= set(settings["only_mutate"])
    assert settings["pytest_add_cli_args_test_selection"] == ["@/selected"]
    assert all(list(ROOT.glob(f"tests/unit/{pattern}.py")) for pattern in PARTS[name].tests)
    assert all((ROOT / path).is_file() for path in settings["only_mutate"] + PARTS[name].list_tests())


def make_run(state_dir: Path, *, patterns: tuple[str, ...] = (), sample: int | None = None) -> Mutation:
    return Mutation("actions", patterns, state_dir, Steps(), sample, seed=1)


def make_changes(count: int) -> list[Change]:
    return [Change(f"compute_agent.actions.x_run__mutmut_{number}", f"difference {number}", "") for number in range(count)]


def test_survivors_are_shown_and_counted_by_module_and_by_who_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [*make_changes(5), Change("compute_agent.actions.x_run__mutmut_5", "difference 5", "label of a transaction")]
    names = [change.name for change in changes]
    verdicts = dict(zip(names, ("killed", "timeout", "survived", "no tests", "survived", "survived"), strict=True))
    played = {names[2]: "killed", names[3]: "survived", names[4]: "timeout"}
    make_run(tmp_path)._tell({"compute_agent.actions": changes}, verdicts, played)
    told = capsys.readouterr().out
    assert f"{names[3]}\ndifference 3\n" in told
    assert told.count("difference") == 1
    counts = "4 of 5 noticed (80.0 %): 2 by unit tests, 2 by the simulation; 1 survived, 1 left out"
    assert f"compute_agent.actions: {counts}\nall: {counts}; left out by rule: label of a transaction 1\n" in told


def test_a_sample_stays_the_same_where_a_module_changes_and_does_not_count_what_is_left_out(tmp_path: Path) -> None:
    harmless = Change("compute_agent.actions.x_run__mutmut_99", "", "label of a transaction")
    run = make_run(tmp_path, sample=10)
    chosen = run._choose([*make_changes(50), harmless])
    assert (len(chosen), harmless in chosen) == (11, True)
    assert len(set(run._choose(make_changes(51))) & set(chosen)) >= 9


def test_what_no_part_has_is_not_run(tmp_path: Path) -> None:
    assert not make_run(tmp_path, patterns=("compute_agent.nonsense",)).run()
    assert list(tmp_path.iterdir()) == []
