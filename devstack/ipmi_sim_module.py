"""The module that every simulated BMC's process loads: what ipmi_sim has no machine, no events and no whole watchdog for."""

from __future__ import annotations

from pathlib import Path

from devstack.shared_objects import ensure_shared_object

_SOURCES = sorted(Path(__file__).parent.glob("ipmi_sim_*.[ch]"))


def ensure_module(cache_dir: Path | None = None) -> Path:
    """The module that every simulator loads, built when its source changed (0.2 s); raises StepFailed."""
    advice = "is libopenipmi-dev installed? devstack/demo installs what is missing"
    return ensure_shared_object("ipmi_sim_module", _SOURCES, advice=advice, cache_dir=cache_dir)
