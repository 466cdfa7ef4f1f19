"""When which fault strikes whom: drawn from a seed, alone and combined, and never two at a time that need the same part."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FIRST = 3.0
"""Seconds of peace at the beginning."""


@dataclass(frozen=True)
class Strike:
    """One fault: ``at`` seconds after the begin, for ``duration`` seconds; ``target`` is a part, a host, or empty."""

    number: int
    fault: str
    target: str
    at: float
    duration: float


@dataclass(frozen=True)
class Draw:
    """What may be drawn of one fault: its targets, how long it lasts (least, most seconds), how often in relation to the others, and which
    parts it needs for itself while it lasts."""

    targets: Sequence[str]
    duration: tuple[float, float]
    weight: float
    needs: Mapping[str, frozenset[str]]


def draw_schedule(seed: str, faults: Mapping[str, Draw], *, seconds: float, pause: tuple[float, float], combined: float) -> list[Strike]:
    """Each fault comes once before any comes twice, as long as there is time, and of one fault each target. What would last longer than
    there is time is left out.

    :param pause: least and most seconds between the end of one and the next
    :param combined: the chance that another one begins while this one lasts
    """
    chance = random.Random(f"{seed}/schedule")
    strikes: list[Strike] = []
    busy: list[tuple[float, frozenset[str]]] = []
    at, due = _FIRST, list[str]()
    left_out = 0
    targets_due: dict[str, list[str]] = {}
    while faults:
        if not due:
            due = _shuffle(faults, chance)
        fault = due.pop(0)
        draw = faults[fault]
        if not targets_due.get(fault):
            targets_due[fault] = chance.sample(draw.targets, len(draw.targets))
        target = targets_due[fault].pop()
        duration = chance.uniform(*draw.duration)
        needed = draw.needs[target]
        start = max([at, *(until + _FIRST for until, parts in busy if parts & needed)])
        if start + duration > seconds:
            left_out += 1
            if left_out >= len(faults):
                break
            continue
        left_out = 0
        strikes.append(Strike(len(strikes) + 1, fault, target, start, duration))
        busy.append((start + duration, needed))
        at = start + (chance.uniform(0.1, 0.9) * duration if chance.random() < combined else duration + chance.uniform(*pause))
    return strikes


def _shuffle(faults: Mapping[str, Draw], chance: random.Random) -> list[str]:
    """All of them in a random order; those of a greater weight more than once."""
    names = [name for name, draw in faults.items() for _ in range(max(1, round(draw.weight)))]
    chance.shuffle(names)
    return names
