"""Samples in milliseconds, and the table made of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("falcon", "granian", "SQLAlchemy", "oslo.messaging", "kombu", "psycopg", "libvirt-python")


@dataclass(frozen=True)
class Figure:
    """One measured quantity; ``floor`` names the figure that it cannot beat, ``note`` says what the numbers alone do not."""

    name: str
    samples_ms: list[float]
    floor: str | None = None
    note: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples_ms)

    @property
    def p99(self) -> float:
        """The 99th percentile; with fewer than 100 samples, the largest."""
        ordered = sorted(self.samples_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


@dataclass
class Report:
    """All figures of a run and what they were measured on."""

    figures: list[Figure] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    """Of the minute before: what else the machine was doing."""

    def to_markdown(self) -> str:
        """One row per figure; the last columns compare its median with its floor's."""
        medians = {figure.name: figure.median for figure in self.figures}
        lines = [
            "machine: " + ", ".join(f"{key} {value}" for key, value in self._describe_machine().items()),
            "",
            "| what | runs | min ms | median ms | p99 ms | max ms | floor | over the floor ms | ratio |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for figure in self.figures:
            over = ratio = ""
            if figure.floor is not None:
                over = f"{figure.median - medians[figure.floor]:.2f}"
                ratio = f"{figure.median / medians[figure.floor]:.2f}"
            lines.append(
                f"| {figure.name} | {len(figure.samples_ms)} | {min(figure.samples_ms):.2f} | {figure.median:.2f} | {figure.p99:.2f} "
                f"| {max(figure.samples_ms):.2f} | {figure.floor or ''} | {over} | {ratio} |"
            )
        notes = [f"- {figure.name}: {figure.note}" for figure in self.figures if figure.note is not None]
        return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"

    def write_json(self, path: Path) -> None:
        """The same with every sample."""
        body: dict[str, Any] = {
            "machine": self._describe_machine(),
            "figures": [
                {
                    "name": each.name,
                    "floor": each.floor,
                    "note": each.note,
                    "median_ms": each.median,
                    "p99_ms": each.p99,
                    "samples_ms": each.samples_ms,
                }
                for each in self.figures
            ],
        }
        path.write_text(json.dumps(body, indent=2) + "\n")

    def _describe_machine(self) -> dict[str, str]:
        packages = {name: metadata.version(name) for name in _PACKAGES if _is_installed(name)}
        load = {"load before": f"{self.load_before:.1f}"}
        return {"cores": str(os.cpu_count()), **load, "kernel": platform.release(), "python": platform.python_version(), **packages}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
