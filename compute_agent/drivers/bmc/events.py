"""Hands what is told of machines to the agent, in order, and nothing after the end."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from compute_agent.contract.outage import Outage
from compute_agent.drivers.base import Events
from compute_agent.drivers.errors import EventNotTaken
from compute_agent.drivers.models import DriverEvent

LOG = logging.getLogger(__name__)


class BmcEvents(Events):
    """The one listener, and the cursors that it gave back at the start."""

    def __init__(self) -> None:
        self._listener: Callable[[DriverEvent], None] | None = None
        self._delivering = threading.Lock()
        self._is_silenced = False
        self._cursors: dict[str, str] = {}
        self._no_room = Outage("what logs of machines tell is read again")

    def subscribe(self, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        if self._listener is not None:
            raise RuntimeError("the driver for bare metal has one listener and it is registered already")
        self._cursors.update(cursors)
        self._listener = listener

    def find_cursor(self, server: str) -> str | None:
        """The last one that was kept or that the listener took."""
        return self._cursors.get(server)

    def forget_cursor(self, server: str) -> None:
        """It left, and the listener forgets it as well: what its log says until it comes back belongs to no life of it here."""
        self._cursors.pop(server, None)

    def tell(self, events: Iterable[DriverEvent]) -> bool:
        """One after the other; False when the listener did not take them all."""
        with self._delivering:
            for event in events:
                if self._is_silenced or self._listener is None:
                    return False
                try:
                    self._listener(event)
                except EventNotTaken as error:
                    self._no_room.begin(error)
                    return False
                except Exception:
                    # It promised not to. All other machines' events have to be told; this one's log is read from the same place again.
                    LOG.exception("The listener failed on event %s of server %s", event.kind, event.server)
                    return False
                self._no_room.end()
                if event.server is not None and event.cursor is not None:
                    self._cursors[event.server] = event.cursor
        return True

    def silence(self) -> None:
        """When this returns, the listener is not being called and never will be again."""
        with self._delivering:
            self._is_silenced = True
