"""What there was before an action is taken on, for the checks that need to know: asked for one by one, or read at once for many servers."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from api_gateway.rpc_versions import Speaker
from api_gateway.store import Connection, actions
from api_gateway.store.actions import ActionRow
from api_gateway.store.agent_versions import list_versions_of
from api_gateway.store.prospects import Prospect
from api_gateway.store.servers import ServerRow
from compute_agent.contract.models import STANDS_STILL


class Circumstances(Protocol):
    """Of the actions that one transaction takes on: what it found, and where their rows go."""

    def find_speaker(self, host: str) -> Speaker | None:
        """What the host's agent said of its versions; None: it was never heard."""
        ...

    def find_blocking(self, server: str) -> ActionRow | None:
        """The crash dump that forbids another one of this server."""
        ...

    def count_open(self, host: str) -> int:
        """The host's actions that have not ended, with those of this transaction."""
        ...

    def insert(self, row: ActionRow) -> None: ...


class AskedFor:
    """Implements Circumstances for one server: each is asked for when a check needs it.

    :param holdoff: how long after a crash dump's signal the dump may still be running
    """

    def __init__(self, c: Connection, server: ServerRow, now: datetime, holdoff: timedelta) -> None:
        self._c = c
        self._stands_still_since = server.state_at if server.power_state in STANDS_STILL else None
        self._now = now
        self._holdoff = holdoff

    def find_speaker(self, host: str) -> Speaker | None:
        return list_versions_of(self._c, [host]).get(host)

    def find_blocking(self, server: str) -> ActionRow | None:
        return actions.find_blocking_crash_dump(
            self._c, server, now=self._now, holdoff=self._holdoff, stands_still_since=self._stands_still_since
        )

    def count_open(self, host: str) -> int:
        return actions.count_open_of_host(self._c, host)

    def insert(self, row: ActionRow) -> None:
        actions.insert_action(self._c, row)


class ReadAhead:
    """Implements Circumstances: what was read with the servers before the first check; the rows are inserted together after the last one.

    :param prospects: servers that do not stand still, none twice
    """

    def __init__(self, prospects: Sequence[Prospect]) -> None:
        self.rows: list[ActionRow] = []
        self._speakers = {one.host: one.spoken for one in prospects}
        self._open = {one.host: one.open_actions for one in prospects}
        self._blocking = {one.id: one.blocking for one in prospects}

    def find_speaker(self, host: str) -> Speaker | None:
        return self._speakers[host]

    def find_blocking(self, server: str) -> ActionRow | None:
        return self._blocking[server]

    def count_open(self, host: str) -> int:
        return self._open[host]

    def insert(self, row: ActionRow) -> None:
        self.rows.append(row)
        self._open[row.host] += 1
