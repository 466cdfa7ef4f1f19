"""Faults with a fixed seed for two minutes in all, over real processes, a real broker and a real store."""

from pathlib import Path

import pytest

from devstack.ports import find_free_base
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.steps import Steps
from tests.chaos.run import Wish, run_chaos

_SEED = 385
"""Of the first few hundred the one with the most kinds of faults in its first minute."""
_MINUTES = 1.5
"""With what it takes to start everything, and to wait until all is quiet, these are two."""
_MOST_SECONDS = 140
_LEAST_RATE = 3.0
"""Actions a second that were accepted: with fewer nothing was put to the test."""


@pytest.mark.timeout(400)  # who is killed by it leaves every process behind
def test_no_promise_is_broken_in_two_minutes_of_faults(tmp_path: Path) -> None:
    missing = [part for part in list_missing_parts() if part in ("epmd", "rabbitmq-server")]
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}"
    wish = Wish(seed=_SEED, minutes=_MINUTES, most_seconds=_MOST_SECONDS, combined=0.75, pause=(0.5, 1.5))
    result = run_chaos(tmp_path, find_free_base(), wish, Steps())
    assert not result.violations, result.text
    assert result.figures.actions >= _LEAST_RATE * result.figures.seconds, result.text
    print(result.text)  # shown with -rP
