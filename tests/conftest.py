"""For all tests: compiled statements are shared, nothing loaded is looked through for garbage, and a program's log ends with its test.

In CI examples are the same in each run, so that a change is judged by what it changes. How long an example takes is the machine's affair.
"""

import gc
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.databases import share_compiled_statements

settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("usual"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() == "true" else "usual")

share_compiled_statements()


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay to the end: to look through them again and again took a fourteenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A program that was run by a test has set up a log on that test's output, on which later ones would write in vain, and say so."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
