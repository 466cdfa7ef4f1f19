"""What the mutation run tells of mutmut's results, without the hours that they take."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from devstack import mutation
from devstack.checks import ROOT
from devstack.steps import Steps


def test_the_modules_that_keep_the_promises_are_changed_and_tests_of_them_selected() -> None:
    settings = tomllib.loads(mutation._write_settings())["tool"]["mutmut"]
    assert all(list(ROOT.glob(pattern)) for pattern in settings["only_mutate"])
    selected = settings["pytest_add_cli_args_test_selection"]
    for module in ("actions", "reporter", "endpoint", "journal_outbox"):
        assert f"tests/unit/agent/test_{module}.py" in selected
    for module in ("dispatcher", "recorder"):
        assert f"tests/unit/gateway/test_{module}.py" in selected


def test_survivors_are_shown_and_counted_by_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(command: Path, tree: Path, *arguments: str) -> str:
        return f"the difference of {arguments[-1]}"

    monkeypatch.setattr(mutation, "_run_mutmut", run)
    verdicts: Sequence[str] = ("killed", "timeout", "survived", "no tests")
    results = "".join(f"    compute_agent.actions.x_run__mutmut_{number}: {verdict}\n" for number, verdict in enumerate(verdicts))
    assert mutation._report(Path("mutmut"), Path(), results, [], Steps()) == 0
    told = capsys.readouterr().out
    assert "the difference of compute_agent.actions.x_run__mutmut_2\n" in told
    assert "the difference of compute_agent.actions.x_run__mutmut_3\n" in told
    assert "2 of     4 killed (50.0 %)" in told


def test_a_run_that_changed_nothing_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutation._report(Path("mutmut"), Path(), "", ["compute_agent.nonsense*"], Steps()) == 1
