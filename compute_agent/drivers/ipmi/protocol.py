"""The protocol ``ipmi``: IPMI 2.0 over LAN (RMCP+)."""

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.options import GROUP, register_options
from compute_agent.drivers.bmc.protocol import Bmc, Protocol, Target
from compute_agent.drivers.ipmi.bmc import IpmiBmc
from compute_agent.drivers.ipmi.sessions import Sessions
from compute_agent.drivers.ipmi.target import check_target
from compute_agent.drivers.ipmi.watchdog_timer import MODEL


class IpmiProtocol(Protocol):
    """All BMCs of the process share one I/O thread. ``countdown``: seconds for a watchdog timer that has none of its own."""

    name = "ipmi"
    default_port = 623
    watchdog_models = (MODEL,)

    def __init__(self, clock: Clock, countdown: float) -> None:
        self._clock = clock
        self._countdown = countdown
        self._sessions = Sessions(clock)

    def connect(self, target: Target) -> Bmc:
        check_target(target)
        return IpmiBmc(target, self._sessions, self._clock, self._countdown)

    def close(self) -> None:
        self._sessions.close()


def create_protocol(conf: cfg.ConfigOpts, clock: Clock) -> Protocol:
    """The entry point."""
    register_options(conf)
    return IpmiProtocol(clock, conf[GROUP].watchdog_countdown)
