"""Redfish, as the driver for bare metal loads it."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.protocol import Bmc, Protocol, Target
from compute_agent.drivers.redfish.bmc import RedfishBmc
from compute_agent.drivers.redfish.connection import Connection
from compute_agent.drivers.redfish.errors import ExchangeError
from compute_agent.drivers.redfish.line import Alarm
from compute_agent.drivers.redfish.tls import TrustStores
from compute_agent.drivers.redfish.watchdog import WATCHDOG_MODEL

LOG = logging.getLogger(__name__)

_LOG_OUT_THREADS = 8
_LOG_OUT_LIMIT = 2.0
_LOG_OUTS_LIMIT = 5.0
"""Seconds for one BMC to take its session back, and for all of them at the end; one that does not, ends it by itself some time."""


class RedfishProtocol(Protocol):
    """HTTPS to each BMC, verified unless a target says otherwise."""

    name = "redfish"
    default_port = 443
    watchdog_models = (WATCHDOG_MODEL,)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._alarm = Alarm(clock)
        self._stores = TrustStores()
        self._log_outs = ThreadPoolExecutor(_LOG_OUT_THREADS, thread_name_prefix="redfish-log-out")
        self._leaving: set[Future[None]] = set()

    def connect(self, target: Target) -> Bmc:
        connection = Connection(target, self._clock, self._alarm, self._stores)
        return RedfishBmc(target, connection, self._clock, self._begin_log_out)

    def close(self) -> None:
        wait(list(self._leaving), timeout=_LOG_OUTS_LIMIT)
        self._log_outs.shutdown(cancel_futures=True)
        self._alarm.close()

    def _begin_log_out(self, connection: Connection) -> None:
        """Closing a BMC waits for nobody."""
        if connection.has_session:
            leaving = self._log_outs.submit(_log_out, connection)
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


def _log_out(connection: Connection) -> None:
    try:
        connection.log_out(_LOG_OUT_LIMIT)
    except ExchangeError as error:
        LOG.info("a BMC did not take its session back: %s", error)


def create_protocol(_conf: cfg.ConfigOpts, clock: Clock) -> Protocol:
    """The entry point."""
    return RedfishProtocol(clock)
