"""The history of a run, sorted by what it tells, as the validator and the report read it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.history import Line, What

FOR_EVER = float("inf")


@dataclass(frozen=True)
class Violation:
    """``at`` is when, as far as that can be said: of an action, when it was asked for."""

    invariant: int
    text: str
    at: float


@dataclass(frozen=True)
class Window:
    """A fault and when it lasted; ``over`` is when it was undone."""

    id: int
    name: str
    target: str
    begins: float
    over: float
    hosts: frozenset[str]
    parts: frozenset[str]

    @property
    def destroys_journal(self) -> bool:
        return self.name == "journal deleted"

    def overlaps(self, since: float, until: float) -> bool:
        return self.begins <= until and self.over >= since


@dataclass
class Record:
    """What the lines say. Lists are in the order of time."""

    setup: Line = field(default_factory=dict)
    lines: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, lines: Iterable[Line]) -> "Record":
        record = cls()
        for line in lines:
            record.lines[line["what"]].append(line)
        for found in record.lines.values():
            found.sort(key=lambda line: line["at"])
        if record.lines[What.SETUP]:
            record.setup = record.lines[What.SETUP][0]
        return record

    def __post_init__(self) -> None:
        self._windows: list[Window] | None = None
        self._rows: dict[str, Line] | None = None

    @property
    def begin(self) -> float:
        """When the faults began, at the latest."""
        return float(self.setup["at"])

    @property
    def end(self) -> float:
        return max((found[-1]["at"] for found in self.lines.values() if found), default=0.0)

    @property
    def rows(self) -> dict[str, Line]:
        """The store's actions at the end, by id."""
        if self._rows is None:
            self._rows = {row["id"]: row for row in self.lines[What.ROW]}
        return self._rows

    @property
    def windows(self) -> list[Window]:
        """Every fault that began."""
        if self._windows is None:
            over = {line["id"]: line["at"] for line in self.lines[What.FAULT] if line["phase"] != "begins"}
            self._windows = [
                Window(
                    line["id"],
                    line["name"],
                    line["target"],
                    line["at"],
                    over.get(line["id"], FOR_EVER),
                    frozenset(line["hosts"]),
                    frozenset(line["parts"]),
                )
                for line in self.lines[What.FAULT]
                if line["phase"] == "begins"
            ]
        return self._windows

    def was_restored_between(self, since: float, until: float) -> bool:
        return any(since <= line["at"] <= until for line in self.lines[What.RESTORED])

    def was_journal_destroyed_between(self, host: str, since: float, until: float) -> bool:
        """What an agent knew of earlier signals went with it."""
        return any(window.destroys_journal and host in window.hosts and window.overlaps(since, until) for window in self.windows)

    def is_newer_than_backup(self, at: float) -> bool:
        """Whether what was stored then went when the store was restored."""
        return any(line["taken_at"] <= at <= line["at"] for line in self.lines[What.RESTORED])

    def find_clock_error(self, host: str, since: float, until: float) -> float:
        """Seconds by which a host's clock may have misled it over a time: what is allowed, or by how much it was set meanwhile."""
        struck = {window.id for window in self.windows if host in window.hosts and window.overlaps(since - 1, until + 1)}
        errors = [abs(line["offset"]) for line in self.lines[What.FAULT] if line.get("offset") and line["id"] in struck]
        error: float = max([*errors, self.setup["tolerance"]])
        return error

    def list_gone(self) -> set[str]:
        """Actions whose rows went with a restored store, and whose journal an operator destroyed as well: nobody can know of them."""
        return {line["id"] for line in self.lines[What.JOURNALLED_ACTION] if line["destroyed"] and self.lines[What.RESTORED]}
