"""A test run says failure when something failed, when nothing ran, and when a budget was exceeded."""

from pathlib import Path

import pytest

from devstack import testrun
from devstack.steps import StepFailed, Steps
from devstack.testrun import QUICK, Budget, Outcome


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(passed=3), 0),
        (Outcome(passed=3, failed=1), 1),
        (Outcome(), 1),
        (Outcome(skipped=4), 1),
        (Outcome(passed=3, seconds={QUICK: QUICK.seconds + 1}), 1),
        (Outcome(passed=3, seconds={QUICK: QUICK.seconds - 1}), 0),
    ],
)
def test_exit_code(outcome: Outcome, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert testrun._conclude(outcome, Steps()) == code
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.startswith(f"{outcome.passed} passed, ")


def test_a_tier_that_does_not_exist_is_refused_with_the_choice() -> None:
    with pytest.raises(StepFailed, match="nonsense"):
        testrun._choose_tiers(["nonsense"])


def test_the_expected_tiers_are_run_even_when_their_directory_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that losing a suite fails the run instead of making it quicker."""
    monkeypatch.setattr(testrun, "TESTS", tmp_path)
    names = [tier.name for tier in testrun._choose_tiers([])]
    assert names == ["check", "unit", "contract", "simulation", "conformance", "stack", "bare_metal", "clients"]


def test_a_group_of_tiers_shares_one_budget() -> None:
    budget = Budget("two tiers", 10)
    outcome = Outcome()
    outcome.spend(budget, 6)
    outcome.spend(budget, 7)
    assert outcome.seconds == {budget: 13}
