"""Looks at servers take as long as the machine needs."""

import pytest

from compute_agent import looks


@pytest.fixture(autouse=True)
def _patient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of most tests is a made-up one; looks run on threads, and are waited for by the real one."""
    monkeypatch.setattr(looks, "LOOK_LIMIT", 600.0)
