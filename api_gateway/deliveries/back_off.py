"""How long to wait after a failed try, and when to stop trying."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class BackOff:
    """Doubling from ``first`` to ``longest`` seconds, each up to a fifth longer by chance: those who failed together come back apart.

    :param chance: a number from 0 to 1, another one at each call
    """

    first: float = 5.0
    longest: float = 900.0
    max_tries: int = 120
    chance: Callable[[], float] = random.random

    def find_pause(self, failures: int) -> timedelta:
        """After so many failures in a row."""
        return self._find_shortest(failures) * (1.0 + self.chance() / 5.0)

    @property
    def span(self) -> timedelta:
        """The shortest time from the first of ``max_tries`` tries to the last one."""
        return sum((self._find_shortest(failures) for failures in range(1, self.max_tries)), timedelta())

    def _find_shortest(self, failures: int) -> timedelta:
        doublings = min(max(failures - 1, 0), 40)
        return timedelta(seconds=min(self.first * 2**doublings, max(self.longest, self.first)))
