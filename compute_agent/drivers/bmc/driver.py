"""Puts the driver for bare metal together."""

import random
import threading
from pathlib import Path

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import Driver, Lifecycle, Reload
from compute_agent.drivers.bmc.diagnostics import BmcDiagnostics
from compute_agent.drivers.bmc.events import BmcEvents
from compute_agent.drivers.bmc.fleet import Fleet
from compute_agent.drivers.bmc.limits import CallLimit
from compute_agent.drivers.bmc.nmi import BmcNmi
from compute_agent.drivers.bmc.options import GROUP, register_options
from compute_agent.drivers.bmc.poller import Poller
from compute_agent.drivers.bmc.protocols import Protocols
from compute_agent.drivers.bmc.readings import Readings
from compute_agent.drivers.bmc.schedule import Pace, Schedule
from compute_agent.drivers.bmc.servers import BmcServers
from compute_agent.drivers.bmc.watchdog_timer import BmcWatchdogTimer
from compute_agent.drivers.bmc.watchdogs import BmcWatchdogs, Timers

NAME = "bmc"


class BmcParts:
    """The driver with what it is made of, so that a test can take single steps.

    :param protocols: None: those that are installed
    :raises ValueError: machines would be looked at less often when it matters than at other times.
    """

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock, protocols: Protocols | None = None, chance: random.Random | None = None) -> None:
        register_options(conf)
        group = conf[GROUP]
        if group.attentive_interval > group.poll_interval:
            raise ValueError(
                f"[{GROUP}] attentive_interval = {group.attentive_interval:g} s must not be more than "
                f"poll_interval = {group.poll_interval:g} s"
            )
        pace = Pace(group.poll_interval, group.attentive_interval, group.attentive_span, at_once=group.poll_threads)
        limit = CallLimit.within(group.call_bound, clock)
        self.protocols = protocols or Protocols(conf, clock)
        self.fleet = Fleet(Path(group.inventory).absolute(), self.protocols)
        self.readings = Readings(clock)
        self.events = BmcEvents()
        schedule = Schedule(pace, chance or random.Random())  # noqa: S311 # spreads polls over time, guards nothing
        self.poller = Poller(self.fleet, self.readings, self.events, schedule, clock, limit.seconds)
        servers = BmcServers(self.fleet, self.readings, limit, clock, on_change=self.poller.hurry)
        timers = Timers(self.fleet, servers, self.readings, limit, on_change=self.poller.note_timer)
        in_force = _InForce(self, threads=group.poll_threads, patience=limit.seconds)
        self.fleet.load()
        self.driver = Driver(
            name=NAME,
            servers=servers,
            call_bound=group.call_bound,
            nmi=BmcNmi(self.fleet, limit, on_sent=self.poller.attend),
            diagnostics=BmcDiagnostics(self.fleet, self.readings, limit, clock),
            watchdog=BmcWatchdogs(self.protocols, timers),
            watchdog_timer=BmcWatchdogTimer(timers),
            events=self.events,
            lifecycle=in_force,
            reload=in_force,
        )


def create_driver(conf: cfg.ConfigOpts, clock: Clock) -> Driver:
    """The driver as ``conf`` wants it, with its inventory read and no BMC asked yet. What is wrong in the inventory is logged.

    :raises ValueError: the options do not go together.
    """
    return BmcParts(conf, clock).driver


class _InForce(Lifecycle, Reload):
    """What is in force of an inventory, from the opening to the closing; the two never meet a reload half-way."""

    def __init__(self, parts: BmcParts, threads: int, patience: float) -> None:
        self._parts = parts
        self._threads = threads
        self._patience = patience
        self._changing = threading.Lock()
        self._is_closed = False

    def open(self) -> None:
        self._parts.poller.open(self._threads)

    def reload(self) -> None:
        with self._changing:
            if not self._is_closed:
                self._parts.poller.update(self._parts.fleet.load())

    def close(self) -> None:
        with self._changing:
            self._is_closed = True
        self._parts.events.silence()
        self._parts.poller.close()
        self._parts.fleet.close()
        self._parts.poller.join(self._patience)
        self._parts.protocols.close()
