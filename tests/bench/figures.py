"""Samples of one quantity, what they are held against, and the table made of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("falcon", "granian", "SQLAlchemy", "oslo.messaging", "kombu", "psycopg", "libvirt-python")


class Unit(StrEnum):
    """Of a figure's samples. Of a rate more is better, of everything else less."""

    MS = "ms"
    SECONDS = "s"
    PER_SECOND = "/s"
    MIB = "MiB"
    PERCENT = "% of a core"


@dataclass(frozen=True)
class Goal:
    """What a figure is to reach; every bound that is given has to hold.

    :param median: bound of the median, in the figure's unit
    :param p99: bound of the 99th percentile, in the figure's unit
    :param share: of the floor that a rate reaches at least (of anything else: that the floor is of it at least), 0 to 1
    """

    median: float | None = None
    p99: float | None = None
    share: float | None = None

    def describe(self, unit: Unit) -> str:
        """In a few words, for the table."""
        bound = "≥" if unit is Unit.PER_SECOND else "≤"
        parts = [
            None if self.median is None else f"{bound} {self.median:g} {unit}",
            None if self.p99 is None else f"p99 {bound} {self.p99:g} {unit}",
            None if self.share is None else f"≥ {self.share:.0%} of the floor",
        ]
        return ", ".join(part for part in parts if part is not None)

    def is_met(self, figure: Figure, floor: float | None) -> bool:
        """:param floor: the median of the figure's floor

        :raises ValueError: a share is asked for and there is no floor.
        """
        if self.share is not None and floor is None:
            raise ValueError(f"{figure.name}: a share of what? The figure has no floor")
        return (
            (self.median is None or figure.is_within(figure.median, self.median))
            and (self.p99 is None or figure.is_within(figure.p99, self.p99))
            and (self.share is None or floor is None or figure.find_share(floor) >= self.share)
        )


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    ``floor`` names the figure that it cannot beat, measured in the same run; ``note`` says what the numbers alone do not.
    """

    name: str
    samples: list[float]
    floor: str | None = None
    note: str | None = None
    unit: Unit = Unit.MS
    goal: Goal | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        """The 99th percentile, of a rate the first; with fewer than 100 samples, the worst."""
        ordered = sorted(self.samples, reverse=self.unit is Unit.PER_SECOND)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]

    def is_within(self, value: float, bound: float) -> bool:
        """Whether a value in the figure's unit is as good as ``bound`` or better."""
        return value >= bound if self.unit is Unit.PER_SECOND else value <= bound

    def find_share(self, floor: float) -> float:
        """How much of its floor's speed the figure has: 1 is as fast as the floor."""
        return self.median / floor if self.unit is Unit.PER_SECOND else floor / self.median


@dataclass
class Report:
    """All figures of a run and what they were measured on."""

    figures: list[Figure] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    """Of the minute before: what else the machine was doing."""
    slowness: list[float] = field(default_factory=list)
    """How many times as long as the reference machine of ``devstack/machine_speed.py`` this one took for the same work, before each suite
    and at the end. Nothing is scaled by it: whether a goal is met is said of this machine."""

    def to_markdown(self) -> str:
        """One row per figure; the last columns compare its median with its floor's and with its goal."""
        medians = self._get_medians()
        lines = [
            "machine: " + ", ".join(f"{key} {value}" for key, value in self._describe_machine().items()),
            "",
            "| what | runs | unit | min | median | p99 | max | floor | ratio to the floor | share of its speed | goal | met |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for figure in self.figures:
            ratio = share = ""
            if figure.floor is not None:
                ratio = f"{figure.median / medians[figure.floor]:.2f}"
                share = f"{figure.find_share(medians[figure.floor]):.0%}"
            goal = "" if figure.goal is None else figure.goal.describe(figure.unit)
            met = {None: "", True: "yes", False: "NO"}[self._is_met(figure, medians)]
            values = (min(figure.samples), figure.median, figure.p99, max(figure.samples))
            cells = [figure.name, str(len(figure.samples)), figure.unit, *(f"{value:.2f}" for value in values)]
            lines.append("| " + " | ".join([*cells, figure.floor or "", ratio, share, goal, met]) + " |")
        notes = [f"- {figure.name}: {figure.note}" for figure in self.figures if figure.note is not None]
        return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"

    def write_json(self, path: Path) -> None:
        """The same with every sample."""
        medians = self._get_medians()
        body: dict[str, Any] = {
            "machine": self._describe_machine(),
            "figures": [
                {
                    "name": each.name,
                    "unit": str(each.unit),
                    "floor": each.floor,
                    "share": None if each.floor is None else each.find_share(medians[each.floor]),
                    "goal": None if each.goal is None else each.goal.describe(each.unit),
                    "met": self._is_met(each, medians),
                    "note": each.note,
                    "median": each.median,
                    "p99": each.p99,
                    "samples": each.samples,
                }
                for each in self.figures
            ],
        }
        path.write_text(json.dumps(body, indent=2) + "\n")

    def _get_medians(self) -> dict[str, float]:
        return {figure.name: figure.median for figure in self.figures}

    def _is_met(self, figure: Figure, medians: Mapping[str, float]) -> bool | None:
        """None: there is no goal."""
        return None if figure.goal is None else figure.goal.is_met(figure, None if figure.floor is None else medians[figure.floor])

    def _describe_machine(self) -> dict[str, str]:
        packages = {name: metadata.version(name) for name in _PACKAGES if _is_installed(name)}
        load = {"load before": f"{self.load_before:.1f}"}
        if self.slowness:
            load["slowness"] = " ".join(f"{times:.2f}" for times in self.slowness)
        return {"cores": str(os.cpu_count()), **load, "kernel": platform.release(), "python": platform.python_version(), **packages}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
