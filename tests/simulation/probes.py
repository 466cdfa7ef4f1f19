"""Whether the simulation has been everywhere: how often each fault was in force when a process came to each kind of commit."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

AFTERMATH = 5.0
"""Seconds for which a fault that is over still counts: recovery is where it does its harm."""
SHORT = 10.0
"""Seconds for which something counts that is over at once, as a lost message."""
WANTED = 20
"""Hits that each pair must have had before anybody may say that the simulation covers it."""

COMMIT_POINTS = (
    "journal.journal.opened",
    "journal.agent.up",
    "journal.action.received",
    "journal.action.started",
    "journal.action.ended",
    "journal.action.cancelled",
    "journal.observation",
    "journal.outbox.sent",
    "journal.outbox.resend",
    "journal.server.state",
    "journal.server.cursor",
    "journal.server.watchdog.fired",
    "journal.server.watchdog.outcome",
    "store.accept",
    "store.cancel",
    "store.claim",
    "store.record_together",
    "store.apply_heartbeats",
    "store.note_heard",
    "store.end_actions_past_deadline",
    "store.ask_for_missing_events",
    "store.ask",
    "store.mark_sent",
)
"""Every commit beside which something may happen (``journal.action.recovered`` needs two crashes, ``journal.outbox.repeat``
a host on which nothing happens: the seeds have them)."""

JOURNAL_POINTS = tuple(label for label in COMMIT_POINTS if label.startswith("journal."))

STRUCK_THERE = ("killed before", "killed after", "frozen there")
FAULTS = (
    *STRUCK_THERE,
    "process killed",
    "process frozen",
    "cut",
    "broker down",
    "broker in alarm",
    "daemon away",
    "server out of reach",
    "clock stepped",
    "journal lost",
    "journal full",
    "store full",
    "commit unanswered",
    "API frozen at its commit",
    "queue purged",
    "store restored",
    "server migrates",
    "cast forged",
    "event forged",
    "body poisoned",
    "cast raises",
    "cast lost",
    "cast repeated",
    "message delayed",
    "publishing broken off",
    "event repeated",
    "event reordered",
    "heartbeat lost",
    "driver unavailable",
    "answer lost",
    "undeclared error",
    "driver slow",
    "driver never answers",
    "reading hangs",
)
"""Everything that strikes, by the name under which it is told to ``Probes.strike``."""

CANCELLED_WHILE = tuple(("cancelled while", state) for state in ("unknown", "received", "started", "ended"))
"""How far what an agent was told to cancel had come there."""
CANCELLED_WANTED = 5
"""Of those: the gateway mostly knows what has begun, and then tells no agent."""

Hits = Counter[tuple[str, str]]


class Probes:
    """Counts of (commit point, fault) of one run."""

    def __init__(self, get_time: Callable[[], float]) -> None:
        self.hits: Hits = Counter()
        self._get_time = get_time
        self._until: dict[str, float] = {}

    def strike(self, fault: str, seconds: float = SHORT - AFTERMATH) -> None:
        """It is in force from now on for that long, and its aftermath."""
        assert fault in FAULTS, f"{fault} belongs into FAULTS"
        self._until[fault] = max(self._until.get(fault, 0.0), self._get_time() + seconds + AFTERMATH)

    def note_commit(self, label: str) -> None:
        """A process comes to that commit."""
        now, hits = self._get_time(), self.hits
        for fault, until in self._until.items():
            if until > now:
                hits[label, fault] += 1

    def note_cancelled(self, state: str) -> None:
        """An agent is told to cancel what has come so far."""
        self.hits["cancelled while", state] += 1

    def note_strike(self, label: str, fault: str) -> None:
        """At that very commit, and not only near it."""
        self.hits[label, fault] += 1


def list_pairs(points: Iterable[str] = COMMIT_POINTS, faults: Iterable[str] = FAULTS) -> list[tuple[str, str]]:
    """All that there is to be hit."""
    return list(itertools.product(points, faults))


def list_rare(hits: Hits, least: int = WANTED) -> list[tuple[str, str]]:
    """Pairs that were hit less often."""
    return [pair for pair in list_pairs() if hits[pair] < least]


def list_unvisited(hits: Hits, least: int = WANTED) -> list[str]:
    """Commit points, and faults, that were hit less often in all their pairs together, and states in which nothing was cancelled: what a
    usual run is long enough for."""
    totals: Counter[str] = Counter()
    for pair in list_pairs():
        totals.update(dict.fromkeys(pair, hits[pair]))
    rare = [name for name in (*COMMIT_POINTS, *FAULTS) if totals[name] < least]
    return rare + [" ".join(pair) for pair in CANCELLED_WHILE if hits[pair] < min(least, CANCELLED_WANTED)]


def tell(hits: Hits) -> Iterator[str]:
    """The table: a line per commit point, a column per fault, ``!`` behind what is too little."""
    columns = [str(number + 1) for number in range(len(FAULTS))]
    width = max(map(len, COMMIT_POINTS))
    yield "hits of commit points (down) while faults were in force (across)"
    yield from (f"  {number + 1:2d} {fault}" for number, fault in enumerate(FAULTS))
    yield " " * width + "".join(f"{column:>7}" for column in columns)
    for point in COMMIT_POINTS:
        cells = (_tell_count(hits[point, fault]) for fault in FAULTS)
        yield f"{point:<{width}}" + "".join(f"{cell:>7}" for cell in cells)
    yield "; ".join(f"{' '.join(pair)}: {hits[pair]}" for pair in CANCELLED_WHILE)
    pairs = list_pairs()
    yield (
        f"{len(pairs)} pairs: {sum(hits[pair] >= WANTED for pair in pairs)} hit {WANTED} times or more, "
        f"{sum(0 < hits[pair] < WANTED for pair in pairs)} less often, {sum(not hits[pair] for pair in pairs)} never"
    )


def _tell_count(count: int) -> str:
    return f"{count}!" if count < WANTED else str(count) if count < 100_000 else f"{count // 1000}k"
