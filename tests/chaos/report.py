"""What a run came to, for people: the faults, how often, what they broke, and how soon the system was itself again."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from devstack.stack_config import HOST
from tests.chaos.history import What
from tests.chaos.record import FOR_EVER, Record, Violation, Window

_AFTERMATH = 15.0
"""Seconds after a fault in which what is violated is laid to it as well."""
_AFTERSHOCK = 5.0
"""Seconds after its end in which a fault may still keep its hosts back."""
_CLOCKS_DIFFER = 0.05
_LONGEST_SHOWN = 20


@dataclass
class FaultFigures:
    """Of one kind of fault. ``recoveries``: seconds from its end to the first action of a host it struck that was completed then."""

    count: int = 0
    violations: int = 0
    recoveries: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """Of the run. ``endings`` and ``answers`` are counted by word and status; ``unused`` are faults for which there was no time."""

    actions: int
    seconds: float
    endings: Counter[str]
    answers: Counter[str]
    faults: dict[str, FaultFigures]
    combined: int
    events: int
    unused: Sequence[str]


def count_figures(record: Record, violations: Sequence[Violation]) -> Figures:
    faults: dict[str, FaultFigures] = defaultdict(FaultFigures)
    completed = sorted((row["recorded_at"], row["ended_at"], row["host"]) for row in record.rows.values() if row["recorded_at"] is not None)
    for window in record.windows:
        figures = faults[_name(window)]
        figures.count += 1
        recovery = _find_recovery(window, record.windows, completed)
        if recovery is not None:
            figures.recoveries.append(recovery)
    for violation in violations:
        for name in {_name(window) for window in record.windows if window.begins <= violation.at <= window.over + _AFTERMATH}:
            faults[name].violations += 1
    answers = record.lines[What.ANSWER]
    asked = [answer["asked_at"] for answer in answers]
    return Figures(
        actions=len({answer["action"] for answer in answers if answer["action"] is not None}),
        seconds=max(asked) - min(asked) if asked else 0.0,
        endings=Counter(f"{row['ending']}: {row['code']}" for row in record.rows.values()),
        answers=Counter("none" if answer["status"] is None else str(answer["status"]) for answer in answers),
        faults=dict(sorted(faults.items())),
        combined=sum(_is_combined(window, record.windows) for window in record.windows),
        events=len(record.lines[What.EVENT]),
        unused=sorted(set(record.setup.get("faults", ())) - {window.name for window in record.windows}),
    )


def format_report(figures: Figures, violations: Sequence[Violation]) -> str:
    """The whole of it, plain text."""
    minutes = figures.seconds / 60
    lines = [
        f"{figures.actions} actions accepted in {minutes:.1f} minutes ({figures.actions / max(figures.seconds, 1):.1f} a second), "
        f"{figures.events} events recorded",
        f"answers: {_format_counts(figures.answers)}",
        "endings:",
        *(f"  {count:7d}  {word}" for word, count in figures.endings.most_common()),
        "",
        f"{'fault':42} {'count':>6} {'violations':>11} {'recovery p50':>13} {'max':>8}",
    ]
    for name, fault in figures.faults.items():
        lines.append(f"{name:42} {fault.count:6d} {fault.violations:11d} {_format_recovery(fault.recoveries)}")
    total = sum(fault.count for fault in figures.faults.values())
    lines += [f"{total} faults, {figures.combined} of them while another one lasted"]
    lines += [f"no time was left for: {', '.join(figures.unused)}"] if figures.unused else []
    lines.append("")
    by_number = Counter(violation.invariant for violation in violations)
    lines.append(
        f"{len(violations)} violations" + (f": {_format_counts(by_number)} (number of the invariant: count)" if violations else "")
    )
    lines += [f"  ({violation.invariant}) {_shorten(violation.text)}" for violation in violations[:_LONGEST_SHOWN]]
    if len(violations) > _LONGEST_SHOWN:
        lines.append(f"  … and {len(violations) - _LONGEST_SHOWN} more")
    return "\n".join(lines)


def _name(window: Window) -> str:
    """Without the numbers of hosts and nodes."""
    place = re.sub(rf":(host-\d+|{HOST})", "", window.target)
    return f"{window.name}, {re.sub(r'-[0-9]+(?=–|$)', '', re.sub(r'host-[0-9]+$', 'agent', place))}"


def _find_recovery(window: Window, windows: Sequence[Window], completed: Sequence[tuple[float, float | None, str]]) -> float | None:
    """None where another fault kept the same hosts back when this one was over: then it says nothing of this one."""
    if window.over == FOR_EVER:
        return None
    for recorded_at, ended_at, host in completed:
        # What had ended before was only waiting to be told.
        if recorded_at < window.over or (ended_at or recorded_at) < window.over - _CLOCKS_DIFFER or host not in window.hosts:
            continue
        others = [other for other in windows if other.id != window.id and host in other.hosts]
        if any(other.begins <= recorded_at and other.over >= window.over - _AFTERSHOCK for other in others):
            continue
        return recorded_at - window.over
    return None


def _is_combined(window: Window, windows: Sequence[Window]) -> bool:
    return any(other.id != window.id and other.begins < window.over and window.begins < other.over for other in windows)


def _format_recovery(recoveries: Sequence[float]) -> str:
    if not recoveries:
        return f"{'–':>13} {'–':>8}"
    ordered = sorted(recoveries)
    return f"{ordered[len(ordered) // 2]:11.2f} s {ordered[-1]:6.2f} s"


def _format_counts(counts: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{word}: {count}" for word, count in sorted(counts.items(), key=lambda entry: str(entry[0])))


def _shorten(text: str) -> str:
    line = text.replace("\n", " | ")
    return line if len(line) <= 500 else f"{line[:200]} … {line[-280:]}"
