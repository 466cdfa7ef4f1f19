"""What laboratories of machines with BMCs share: the driver for bare metal, over an inventory of theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.bmc.driver import create_driver
from compute_agent.drivers.bmc.options import GROUP, register_options
from tests.conformance.bare_metal_suite import LogLaboratory
from tests.conformance.suite import EventLog
from tests.conformance.watchdog_suite import TimerLaboratory


class BmcLaboratory(LogLaboratory, TimerLaboratory):
    """Starts the driver over :attr:`inventory`; ``options`` are those of ``[bmc]``."""

    options: ClassVar[Mapping[str, float]]
    inventory: Path

    def start_driver(self, cursors: Mapping[str, str]) -> None:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[])
        register_options(conf)
        for name, value in {"inventory": str(self.inventory), **self.options}.items():
            conf.set_override(name, value, group=GROUP)
        self.driver = create_driver(conf, SystemClock())
        self.events = EventLog()
        assert self.driver.events is not None
        assert self.driver.lifecycle is not None
        self.driver.events.subscribe(self.events, cursors)
        self.driver.lifecycle.open()

    def stop_driver(self) -> None:
        assert self.driver.lifecycle is not None
        self.driver.lifecycle.close()
