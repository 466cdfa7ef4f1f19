"""Cut a script that breaks a promise down to what it takes to break it: fewer steps, no fault that is not needed, a smaller world.

Delta debugging: whole parts of the steps are left out, then smaller ones, as long as the same kind of violation remains. What is left is
a script like any other, which plays the same for ever.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.simulation.broker import Faults
from tests.simulation.script import Script
from tests.simulation.step import Step

Break = Callable[[Script], Sequence[str]]
"""Plays a script: the violations."""

_CALM_RATES = {
    "broker": {name: 0.0 for name in dataclasses.asdict(Faults()) if name not in ("latency", "longest_delay")},
    "driver": dict.fromkeys(("unavailable", "answer_lost", "undeclared", "slow", "slow_read", "never", "hanging_read"), 0.0),
}
_CALM_PLAN = {"engines": 1, "crash_at_commit": 0.0, "clock_offsets": (), "logs": 0, "gathering": 0.0}


@dataclass(frozen=True)
class Shrunk:
    """``is_done``: nothing more could be left out; otherwise time was up. ``tries`` are the scripts that were played."""

    script: Script
    violations: Sequence[str]
    is_done: bool
    tries: int


def name_kind(violation: str) -> str:
    """What is wrong, without who and when: another instance of it is as good."""
    without_ids = re.sub(r"req-[0-9a-f-]{36}|[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{32}\b|h\d+g\d+|host-\d+", "…", violation)
    return re.sub(r"\d+(\.\d+)?", "N", without_ids.split("\n", 1)[0])[:120]


def shrink(
    script: Script, play: Break, violations: Sequence[str], *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> Shrunk:
    """The smallest script that is found within ``seconds`` of real time and breaks a promise in the same way.

    :param violations: what the script as it is breaks
    """
    return _Shrinking(play, violations, clock, clock() + seconds).run(script)


class _Shrinking:
    def __init__(self, play: Break, violations: Sequence[str], clock: Callable[[], float], end: float) -> None:
        self._play = play
        self._wanted = {name_kind(violation) for violation in violations}
        self._violations = violations
        self._clock = clock
        self._end = end
        self._tries = 0

    def run(self, script: Script) -> Shrunk:
        before = None
        while script != before and not self._is_late:
            before = script
            script = self._cut_steps(script)
            for smaller in (_list_smaller_worlds, _list_calmer):
                script = self._try_each(script, smaller)
        return Shrunk(script, self._violations, not self._is_late, self._tries)

    @property
    def _is_late(self) -> bool:
        return self._clock() >= self._end

    def _breaks(self, script: Script) -> bool:
        self._tries += 1
        violations = self._play(script)
        found = any(name_kind(violation) in self._wanted for violation in violations)
        if found:
            self._violations = violations
        return found

    def _cut_steps(self, script: Script) -> Script:
        """ddmin over the steps."""
        parts = 2
        while script.steps and not self._is_late:
            size = -(-len(script.steps) // parts)
            for start in range(0, len(script.steps), size):
                if self._is_late:
                    return script
                candidate = script.keep((*script.steps[:start], *script.steps[start + size :]))
                if self._breaks(candidate):
                    script, parts = candidate, max(parts - 1, 2)
                    break
            else:
                if size == 1:
                    break
                parts = min(2 * parts, len(script.steps))
        return script

    def _try_each(self, script: Script, smaller: Callable[[Script], Iterator[Script]]) -> Script:
        """Take each of the smaller ones that still breaks it, from where the last one left off."""
        tried = True
        while tried and not self._is_late:
            tried = False
            for candidate in smaller(script):
                if self._is_late:
                    break
                if self._breaks(candidate):
                    script, tried = candidate, True
                    break
        return script


def _list_smaller_worlds(script: Script) -> Iterator[Script]:
    plan = script.plan
    sizes = ((hosts, plan.guests_per_host) for hosts in range(1, plan.hosts))
    for hosts, guests in (*sizes, *((plan.hosts, guests) for guests in range(1, plan.guests_per_host))):
        smaller = dataclasses.replace(plan, hosts=hosts, guests_per_host=guests)
        yield Script(smaller, tuple(step for step in script.steps if step.fits(smaller)))


def _list_calmer(script: Script) -> Iterator[Script]:
    """With one rate less each, and the run no longer than its last step needs."""
    plan = script.plan
    for part, rates in _CALM_RATES.items():
        present = getattr(plan, part)
        for name, calm in rates.items():
            if getattr(present, name) != calm:
                yield _with(script, **{part: dataclasses.replace(present, **{name: calm})})
    for name, calm_value in _CALM_PLAN.items():
        if getattr(plan, name) != calm_value:
            yield _with(script, **{name: calm_value})
    needed = max((step.at for step in script.steps), default=0.0) + 1.0
    if needed < plan.duration:
        yield _with(script, duration=needed)


def _with(script: Script, **changes: object) -> Script:
    return dataclasses.replace(script, plan=dataclasses.replace(script.plan, **changes))  # type: ignore[arg-type]


def fix_strikes(script: Script, struck: Sequence[Step]) -> Script:
    """The same script with what chance did at commits as steps of their own, so that each can be left out by itself."""
    added = tuple(step for step in struck if step not in script.steps)
    return _with(script.keep((*added, *script.steps)), crash_at_commit=0.0)
