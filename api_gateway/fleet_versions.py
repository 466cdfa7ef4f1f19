"""What the agents speak, read anew as they come and go: an automatic pin follows them."""

import logging
from collections.abc import Iterable

from api_gateway.store import Connection, Store
from api_gateway.store.agent_versions import find_spoken_version, list_spoken_versions
from api_gateway.version_numbers import find_version
from compute_agent.contract import versions
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0


class FleetVersions:
    """Over the last heartbeat of every known host, also of those that are down: they may come back as they were."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: tuple[float, str | None] | None = None
        self._spoken: dict[str, tuple[float, str]] = {}

    def find_lowest(self, c: Connection | None = None, *, is_fresh: bool = False) -> str | None:
        """What all of them understand, as of a second ago at most; None: there is no agent.

        :param c: the transaction that the caller is in, if any: there is no second one inside it
        :param is_fresh: as of now
        :raises StoreError: they could not be read.
        """
        now = self._clock.monotonic()
        seen = self._seen
        if seen is not None and not is_fresh and now - seen[0] < _LOOK_EVERY_SECONDS:
            return seen[1]
        if c is not None:
            lowest = find_lowest_version(list_spoken_versions(c))
        else:
            with self._store.read() as own:
                lowest = find_lowest_version(list_spoken_versions(own))
        if seen is not None and seen[1] != lowest:
            LOG.info("the lowest RPC version that an agent speaks is %s now, no longer %s", lowest, seen[1])
        self._seen = now, lowest  # several threads may look at a time; each is right
        return lowest

    def find_spoken(self, host: str) -> str | None:
        """What the agent of ``host`` says that it speaks, as of a second ago at most; None: it was never heard.

        :raises StoreError: it could not be read.
        """
        seen = self._spoken.get(host)
        if seen is not None and self._clock.monotonic() - seen[0] < _LOOK_EVERY_SECONDS:
            return seen[1]
        with self._store.read() as c:
            spoken = find_spoken_version(c, host)
        if spoken is not None:
            self.note_spoken(host, spoken)
        return spoken

    def note_spoken(self, host: str, version: str) -> None:
        """Somebody has just read of that host's agent that it speaks this: who is about to tell it something need not read it again."""
        self._spoken[host] = self._clock.monotonic(), version


def find_lowest_version(spoken: Iterable[str]) -> str | None:
    """The lowest of those of this release's major version, and no higher than its own; None: there is none.

    What cannot be read, or is of another major version, does not count: such an agent can be told nothing, whatever the pin, and must not
    hold back all the others.
    """
    own = find_version(versions.RPC_API_VERSION)
    numbers = [number for number in map(find_version, spoken) if number is not None and own is not None and number[0] == own[0]]
    if own is None or not numbers:
        return None
    major, minor = min(own, *numbers)
    return f"{major}.{minor}"
