"""Feeds a BMC's watchdog timer, for machines whose operating system does not."""

from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import WatchdogTimer
from compute_agent.drivers.bmc.watchdogs import Timers
from compute_agent.drivers.errors import ServerNotRunning, ServerUnsupported


class BmcWatchdogTimer(WatchdogTimer):
    """A timer that stands still is armed by this: from then on somebody has to go on feeding it."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers

    def reset_timer(self, server: str) -> None:
        machine, state, remaining = self._timers.begin(server)
        if state.timer is None or state.timer.device is None:
            what = "is none" if state.timer is None else "is not set up; set a watchdog first"
            raise ServerUnsupported(server, f"there is nothing to feed: its BMC's watchdog timer {what}")
        if state.power_state is not PowerState.RUNNING:
            raise ServerNotRunning(server, f"the machine is off ({state.reason or state.power_state}): its watchdog guards nothing")
        machine.get_link().bmc.reset_timer(remaining.left())
