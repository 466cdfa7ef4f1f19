"""What mutation testing changes, and the unit tests that look after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devstack.checks import ROOT


@dataclass(frozen=True)
class Part:
    """Modules that the same tests look after, as patterns of paths without their ends.

    Not among the tests are those that go through every point at which a process may die, nor those that draw their input: minutes for a
    change that nothing notices, where the simulation takes seconds.
    """

    package: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def list_modules(self) -> list[Path]:
        """Relative to the tree."""
        return _find_files(f"{self.package}/{name}.py" for name in self.modules)

    def list_tests(self) -> list[Path]:
        return _find_files(f"tests/unit/{name}.py" for name in self.tests)


PARTS = {
    "actions": Part(
        "compute_agent",
        ("actions", "crash_dump", "endpoint", "reporter"),
        (
            "agent/test_action_queue",
            "agent/test_action_sweep",
            "agent/test_actions",
            "agent/test_crash_dump_endings",
            "agent/test_endpoint",
            "agent/test_endpoint_refusals",
            "agent/test_firing_signals",
            "agent/test_host_dumps",
            "agent/test_journal_full",
            "agent/test_reporter",
            "agent/test_resume_action",
            "agent/test_watchdog_actions",
            "agent/test_watchdog_changes_begun",
        ),
    ),
    "journal": Part(
        "compute_agent",
        ("journal*",),
        (
            "agent/test_action_sweep",
            "agent/test_actions",
            "agent/test_endpoint",
            "agent/test_endpoint_refusals",
            "agent/test_firing_signals",
            "agent/test_firings",
            "agent/test_journal_[!s]*",
            "agent/test_journal_servers",
            "agent/test_observer",
            "agent/test_reporter",
            "agent/test_watchdog_actions",
            "agent/test_watchdog_changes_begun",
            "agent/test_watchdog_drift",
        ),
    ),
    "gateway": Part(
        "api_gateway",
        ("applying", "dispatcher", "recorder"),
        (
            "gateway/test_applying",
            "gateway/test_dispatcher*",
            "gateway/test_foreign_events",
            "gateway/test_kinds",
            "gateway/test_recorder",
            "gateway/test_recorder_faults",
            "gateway/test_recorder_heartbeats",
            "gateway/test_senders",
            "gateway/test_shelf",
            "gateway/test_watchdog_changes",
        ),
    ),
    "store": Part(
        "api_gateway",
        ("outbox", "store/casts", "store/endings", "store/outbox", "store/reports", "sweep"),
        (
            "gateway/test_dispatcher*",
            "gateway/test_foreign_events",
            "gateway/test_kinds",
            "gateway/test_outbox",
            "gateway/test_own_events",
            "gateway/test_store_actions",
            "gateway/test_store_events",
            "gateway/test_store_reports",
            "gateway/test_store_restoring",
            "gateway/test_sweep*",
        ),
    ),
}


def _find_files(patterns: Iterable[str]) -> list[Path]:
    return sorted({path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)})
