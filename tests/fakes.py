"""Stand-ins shared by the unit tests and the simulation; only for boundaries that we do not own: time and chance."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """A clock that moves only when told. Implements :class:`compute_agent.contract.clock.Clock`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC), monotonic: float = 1000.0) -> None:
        self._now = start
        self._monotonic = monotonic
        self._boot = "boot"

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def boot(self) -> str:
        return self._boot

    def reboot(self) -> None:
        """The machine starts anew: its monotonic clock as well."""
        self._boot += "+"
        self._monotonic = 10.0

    def advance(self, seconds: float) -> None:
        """Time passes: both clocks move."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Somebody sets the wall clock, forward or back; the monotonic one does not notice."""
        self._now += timedelta(seconds=seconds)


class Counter:
    """Ids that are the same in every run: ``prefix-1``, ``prefix-2``, …"""

    def __init__(self, prefix: str = "id") -> None:
        self._prefix = prefix
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"
