"""Sends a machine the diagnostic interrupt through its BMC."""

from collections.abc import Callable

from compute_agent.drivers.base import Nmi
from compute_agent.drivers.bmc.fleet import Fleet
from compute_agent.drivers.bmc.limits import CallLimit


class BmcNmi(Nmi):
    """Once: the protocol sends it and reads the power before, this only looks the machine up.

    :param on_sent: told of the server afterwards, however it ended; it must only enqueue
    """

    def __init__(self, fleet: Fleet, limit: CallLimit, on_sent: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._limit = limit
        self._on_sent = on_sent

    def inject_nmi(self, server: str) -> None:
        link = self._fleet.get_machine(server).get_link()
        try:
            link.bmc.inject_nmi(self._limit.begin(server).left())
        finally:
            self._on_sent(server)
