"""A test run says failure when something failed, when nothing ran, and when a budget was exceeded."""

import os
import threading
from pathlib import Path

import pytest

from devstack import machine_speed, testrun
from devstack.steps import StepFailed, Steps
from devstack.testrun import LATER, QUICK, TESTS, TIERS, Budget, Outcome, Spent, Tier


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(passed=3), 0),
        (Outcome(passed=3, failed=["one"]), 1),
        (Outcome(), 1),
        (Outcome(skipped=4), 1),
        (Outcome(passed=3, spent={QUICK: Spent(QUICK.seconds + 25, QUICK.seconds + 25)}), 1),
        (Outcome(passed=3, spent={QUICK: Spent(QUICK.seconds - 1, QUICK.seconds - 1)}), 0),
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
    assert names == ["check", "unit", "contract", "simulation", "conformance", "stack", "bare_metal", "consumers", "clients", "upgrade"]


def test_a_group_of_tiers_shares_one_budget() -> None:
    budget = Budget("two tiers", 10)
    outcome = Outcome()
    outcome.spend(budget, 6)
    outcome.spend(budget, 7)
    assert outcome.spent == {budget: Spent(13, 13)}


def test_a_machine_that_is_slower_gets_as_much_longer_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(passed=1)
    outcome.spend(Budget("kept tiers", 10), 14, slowness=1.5)
    assert testrun._conclude(outcome, Steps()) == 0
    assert "14.0 s of 10 s (times 1.50, for this machine is that much slower)  kept tiers: kept" in capsys.readouterr().out


@pytest.mark.parametrize("slowness", [1.0, 1.5])
@pytest.mark.parametrize(("seconds", "verdict", "code"), [(11.6, "over, by no more than", 0), (12.4, "EXCEEDED", 1)])
def test_a_run_fails_only_beyond_what_the_measure_of_its_machine_may_be_off(
    seconds: float, slowness: float, verdict: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(passed=1)
    outcome.spend(Budget("slow tiers", 10), seconds * slowness, slowness)
    assert testrun._conclude(outcome, Steps()) == code
    assert f"slow tiers: {verdict}" in capsys.readouterr().out


def test_a_run_ends_with_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log of CI is kept from its end: what is not said there is not known."""
    report = tmp_path / "some.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase classname="tests.some" name="test_good"/>
        <testcase classname="tests.some" name="test_left"><skipped message="no guests here"/></testcase>
        <testcase classname="tests.some" name="test_bad"><failure message="assert 1 == 2&#10;and more">where</failure></testcase>
        <testcase classname="tests.some" name="test_broken"><error message="failed on teardown">where</error></testcase>
        </testsuite></testsuites>"""
    )
    outcome = testrun._read_report(report)
    outcome.spend(QUICK, QUICK.seconds + 25)
    assert testrun._conclude(outcome, Steps()) == 1
    assert capsys.readouterr().out.partition("=== failed\n")[2].splitlines() == [
        "tests.some::test_bad: assert 1 == 2",
        "tests.some::test_broken: failed on teardown",
        "time budget: 145.0 s of 120 s check + unit + contract + simulation: EXCEEDED",
        "",
        "1 passed, 3 failed, 1 skipped",
    ]


def test_no_machine_is_taken_for_faster_or_for_more_than_three_times_as_slow() -> None:
    assert [machine_speed.rate(times) for times in (0.5, 1, 1.5, 4)] == [1, 1, 1.5, 3]


def test_a_machine_is_rated_by_the_mean_of_what_was_sampled_and_by_what_its_host_took(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(1000, 100), (1100, 100), (1200, 150)])
    monkeypatch.setattr(machine_speed, "read_processor_times", lambda: next(times))
    slowness = machine_speed.Slowness()
    slowness.add(1.0 * machine_speed.SAMPLE_REFERENCE_SECONDS)
    slowness.add(1.4 * machine_speed.SAMPLE_REFERENCE_SECONDS)
    assert slowness.rate() == pytest.approx(1.2)
    assert slowness.rate() == pytest.approx(1.2 * 1.25)  # 50 ticks stolen beside 200 of work


def test_a_machine_is_watched_for_as_long_as_the_work_lasts() -> None:
    """Also for work that is over at once."""
    with machine_speed.watching_slowness() as slowness:
        assert "slowness" in {thread.name for thread in threading.enumerate()}
    assert "slowness" not in {thread.name for thread in threading.enumerate()}
    assert 1 <= slowness.rate() <= machine_speed.MOST


def test_a_tiers_longest_files_begin_first_and_none_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("test_a.py", "test_long.py", "test_longest.py", "deeper/test_b.py", "parts.py"):
        path = tmp_path / "some" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(testrun, "TESTS", tmp_path)
    listed = Tier("some", LATER, shares="loadfile", first=("longest", "long")).list_paths()
    assert [path.name for path in listed] == ["test_longest.py", "test_long.py", "test_b.py", "test_a.py"]


@pytest.mark.parametrize("tier", [tier for tier in TIERS.values() if tier.first], ids=lambda tier: tier.name)
def test_what_a_tier_begins_with_is_there(tier: Tier) -> None:
    assert {f"test_{name}.py" for name in tier.first} <= {path.name for path in tier.list_paths()}


def test_what_a_tier_leaves_is_another_ones() -> None:
    left = {path for tier in TIERS.values() for path in tier.leaves}
    assert left == {path for tier in TIERS.values() for path in tier.paths if path in left}
    assert all((TESTS / path).is_file() for path in left)
    for tier in TIERS.values():
        for path in tier.leaves:
            assert TESTS / path not in tier.list_paths()
            assert f"--ignore={TESTS / path}" in tier.list_options()
    assert TESTS / "stack/test_tail.py" in TIERS["consumers"].list_paths()


def test_where_tests_wait_for_other_processes_one_more_runs_than_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert "--numprocesses=3" in Tier("some", LATER, shares="loadfile", wait=True).list_options()
    assert "--numprocesses=2" in Tier("some", LATER, shares="loadfile").list_options()
    assert not any(option.startswith("--numprocesses") for option in Tier("some", LATER).list_options())
