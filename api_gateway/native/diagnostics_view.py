"""Diagnostics as ``/v1`` shows them: the standard format, in an envelope that says how far to trust it."""

from typing import Any

from api_gateway.diagnostics import Told
from api_gateway.native.times import format_time
from compute_agent.contract.diagnostics import DiagnosticsReport, Hardware


def view_told(told: Told, history: int) -> dict[str, Any]:
    """With the last ``history`` samples, oldest first."""
    report = told.report
    return {
        "server": report.server,
        "source": told.source,
        **_view_sample(report),
        "age": round(report.age, 3),
        "stale": report.stale,
        "hardware": None if report.hardware is None else _view_hardware(report.hardware),
        "history": [_view_sample(sample) for sample in told.history[-history:]] if history else [],
    }


def _view_hardware(hardware: Hardware) -> dict[str, Any]:
    log = [entry.to_wire() | {"at": format_time(entry.at)} for entry in hardware.log]
    return hardware.to_wire() | {"log": log}


def _view_sample(report: DiagnosticsReport) -> dict[str, Any]:
    return {
        "collected_at": format_time(report.collected_at),
        "diagnostics": report.diagnostics.to_wire(),
        "errors": dict(report.errors),
    }
