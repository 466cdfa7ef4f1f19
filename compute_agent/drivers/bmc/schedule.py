"""When which machine is looked at. Decides only: it has no clock, no thread and no I/O, everything it is told."""

import random
from dataclasses import dataclass

_LONGEST_BACKOFF = 4
_JITTER = 0.1


@dataclass(frozen=True)
class Pace:
    """In seconds, but for the number of machines that are looked at at the same time."""

    poll_interval: float
    attentive_interval: float
    attentive_span: float
    at_once: int


@dataclass
class _Turn:
    due: float
    attentive_until: float = float("-inf")
    failures: int = 0
    was_looked_at: bool = False
    is_taken: bool = False
    is_hurried: bool = False
    is_removed: bool = False


class Schedule:
    """Gives out one machine after the other, the longest due first, none twice at a time.

    Machines whose BMCs did not answer the last time are given out less and less often, and hold half of the places at most: however
    many of them wait for their time limits, the others keep their pace. For one user at a time.
    """

    def __init__(self, pace: Pace, chance: random.Random) -> None:
        self._pace = pace
        self._chance = chance
        self._turns: dict[str, _Turn] = {}
        self._most_failing = max(1, pace.at_once // 2)

    def add(self, server: str, now: float) -> None:
        """To be looked at at once. Adding one that is there changes nothing."""
        self._turns.setdefault(server, _Turn(due=now)).is_removed = False

    def remove(self, server: str) -> None:
        """One that is being looked at is kept in mind until that ends: added again meanwhile, it is not looked at twice at a time."""
        turn = self._turns.get(server)
        if turn is not None and turn.is_taken:
            turn.is_removed = True
        elif turn is not None:
            del self._turns[server]

    def hurry(self, server: str, now: float) -> None:
        """Look at it at once, or again as soon as the look that is under way has ended."""
        turn = self._turns.get(server)
        if turn is not None:
            turn.due = min(turn.due, now)
            turn.is_hurried = turn.is_taken

    def attend(self, server: str, now: float) -> None:
        """Look at it more often for a while, from now on."""
        turn = self._turns.get(server)
        if turn is not None:
            turn.attentive_until = now + self._pace.attentive_span
            turn.due = min(turn.due, now + self._find_interval(turn, now))

    def take(self, now: float) -> str | None:
        """The machine to be looked at now, if there is one; :meth:`done` gives it back."""
        due, server = self._find_next()
        if server is None or due > now:
            return None
        self._turns[server].is_taken = True
        return server

    def done(self, server: str, now: float, *, answered: bool) -> None:
        turn = self._turns.get(server)
        if turn is None:
            return
        if turn.is_removed:
            del self._turns[server]
            return
        turn.is_taken = False
        turn.failures = 0 if answered else turn.failures + 1
        turn.due = now if turn.is_hurried else now + self._find_pause(turn, now) * self._find_share(turn)
        turn.was_looked_at = True
        turn.is_hurried = False

    def find_wait(self, now: float) -> float | None:
        """Seconds until :meth:`take` may give one; None: not before something else changes."""
        due, server = self._find_next()
        return None if server is None else max(0.0, due - now)

    def _find_next(self) -> tuple[float, str | None]:
        """The longest due of those that may be given out, and since when or from when on it is due."""
        taken = [turn for turn in self._turns.values() if turn.is_taken]
        if len(taken) >= self._pace.at_once:
            return 0.0, None
        may_fail = sum(turn.failures > 0 for turn in taken) < self._most_failing
        eligible = ((turn.due, server) for server, turn in self._turns.items() if not turn.is_taken and (may_fail or not turn.failures))
        return min(eligible, default=(0.0, None))

    def _find_share(self, turn: _Turn) -> float:
        """The first pause is any part of a whole one: all machines are looked at first at the same time, and would be so for long."""
        return 1.0 if turn.was_looked_at or turn.failures else self._chance.random()

    def _find_interval(self, turn: _Turn, now: float) -> float:
        return self._pace.attentive_interval if now < turn.attentive_until else self._pace.poll_interval

    def _find_pause(self, turn: _Turn, now: float) -> float:
        interval = self._find_interval(turn, now)
        # One that matters most just now is not given up for longer than it is left alone in quiet times.
        longest = self._pace.poll_interval * (1 if now < turn.attentive_until else _LONGEST_BACKOFF)
        pause = min(interval * 2.0 ** min(turn.failures, 16), longest)
        return pause * self._chance.uniform(1 - _JITTER, 1)
