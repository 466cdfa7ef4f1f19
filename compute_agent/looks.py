"""Looks at one server through the driver, for those who must not wait: the events of all the other servers wait behind them.

Where each server is reached through a backend of its own (a management controller, say), one that does not answer must delay nobody else.
So a look is waited for a little while only, and after one that took time and came to nothing none is tried for some seconds: what was not
seen is found by the comparison of states that follows, for which such a driver needs no backend. A server that somebody removed is always
looked for: whether it is really gone is asked of the inventory, not of the server.
"""

import logging
from dataclasses import dataclass

from compute_agent.bounded_calls import BoundedCalls, NoAnswer
from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import DriverError, ServerNotFound
from compute_agent.drivers.models import DriverServer

LOG = logging.getLogger(__name__)

LOOK_LIMIT = 2.0
"""Seconds that events wait for the driver to say how a server is."""
PAUSE = 5.0
"""Seconds after a look that took time and came to nothing in which there is none."""
_AT_ONCE = 0.25
"""Seconds within which a "no" has delayed nobody."""
_THREADS = 4


@dataclass(frozen=True)
class Look:
    """The driver's view of one server, if it was asked and answered; ``seen`` None with ``answered``: there is none."""

    seen: DriverServer | None = None
    answered: bool = False


class Looks:
    """One thread uses it.

    :param host: for the log
    """

    def __init__(self, host: str, driver: Driver, clock: Clock) -> None:
        self._host = host
        self._driver = driver
        self._clock = clock
        self._calls: BoundedCalls[DriverServer] = BoundedCalls("look", threads=_THREADS, limit=LOOK_LIMIT)
        self._not_before = clock.monotonic()

    def look(self, server: str, *, always: bool = False) -> Look:
        """How the server is now. Not ``answered``: nobody knows, states are to be compared.

        :param always: also right after one that delayed everybody
        """
        if not always and self._clock.monotonic() < self._not_before:
            return Look()
        began_at = self._clock.monotonic()
        complaint = None
        try:
            return Look(self._calls.call(server, lambda: self._driver.servers.get_server(server)), answered=True)
        except ServerNotFound:
            return Look(answered=True)
        except (DriverError, NoAnswer) as error:
            complaint = str(error)
        except Exception:
            LOG.exception("server %s on host %s: reading it failed in a way no driver declares", server, self._host)
        # Out here, as oslo.log adds the exception that is being caught to each line, which would say all of it twice.
        if complaint is not None:
            LOG.warning("server %s on host %s cannot be read, comparing again later: %s", server, self._host, complaint)
        now = self._clock.monotonic()
        if now - began_at > _AT_ONCE:
            self._not_before = now + PAUSE
        return Look()
