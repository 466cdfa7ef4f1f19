"""For all tests: compiled statements are shared, and what was loaded is never looked through for garbage.

In CI examples are the same in each run, so that a change is judged by what it changes.
"""

import gc
import os

from hypothesis import settings

from tests.databases import share_compiled_statements

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI", "").lower() == "true":
    settings.load_profile("ci")

share_compiled_statements()


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay to the end: to look through them again and again took a fourteenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
