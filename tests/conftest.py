"""For all tests: compiled statements are shared; in CI examples are the same in each run, so that a change is judged by what it changes."""

import os

from hypothesis import settings

from tests.databases import share_compiled_statements

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI", "").lower() == "true":
    settings.load_profile("ci")

share_compiled_statements()
