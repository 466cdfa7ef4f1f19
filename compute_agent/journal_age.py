"""How old a journal is, by a clock that nobody can set: what may be forgotten after days must not be forgotten because of a wrong date.

A host that comes up with the date of next year would else forget at once which actions it has carried out, and carry out a cast of one
of them, or tell it as failed, a second time.
"""

import json
from typing import Self

from compute_agent.contract.clock import Clock


class JournalAge:
    """Seconds that have certainly passed since the journal was made: those between two looks at one monotonic clock.

    What passed while the machine was off, and between the last look before that and the first one after it, is not counted: nobody knows
    how long it was. So a journal is older than its age at times, and never younger.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._began_at = clock.monotonic() - seconds

    @classmethod
    def read(cls, clock: Clock, stored: str | None) -> Self:
        """Go on from what :meth:`to_stored` gave, None: from nothing."""
        if stored is None:
            return cls(clock, 0.0)
        seconds, monotonic, boot = json.loads(stored)
        passed = clock.monotonic() - monotonic if boot == clock.boot() else 0.0
        return cls(clock, seconds + max(0.0, passed))

    def count(self) -> float:
        """The seconds up to now."""
        return self._clock.monotonic() - self._began_at

    def to_stored(self) -> str:
        return json.dumps([self.count(), self._clock.monotonic(), self._clock.boot()])
