"""Whether the simulation has been everywhere: how often each fault was in force when a process came to each kind of commit."""

from collections import Counter
from collections.abc import Callable


class Probes:
    """Counts of (commit point, fault) of one run."""

    def __init__(self, get_time: Callable[[], float]) -> None:
        self.hits: Counter[tuple[str, str]] = Counter()
        self._get_time = get_time
        self._until: dict[str, float] = {}

    def strike(self, fault: str, seconds: float) -> None:
        """It is in force from now on for that long; of what is over at once, for as long as its consequences are new."""
        self._until[fault] = max(self._until.get(fault, 0.0), self._get_time() + seconds)

    def note_commit(self, label: str) -> None:
        """A process comes to that commit."""
        now = self._get_time()
        self.hits.update((label, fault) for fault, until in self._until.items() if until > now)

    def note_strike(self, label: str, fault: str) -> None:
        """At that very commit, and not only near it."""
        self.hits[label, fault] += 1
