"""For all tests: in CI a generated example is the same in each run, so that a change is judged by what it changes."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI", "").lower() == "true":
    settings.load_profile("ci")
