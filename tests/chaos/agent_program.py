"""``crashcart-agent`` over a :class:`ChaosHypervisor`: ``python -m tests.chaos.agent_program --config-file …``.

``$CHAOS_HOST`` is the hypervisor's directory. The process reads its wall clock through the host's, which may be wrong.
"""

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from oslo_config import cfg

from compute_agent import service
from compute_agent.contract.clock import Clock, SystemClock
from compute_agent.crash_dump import CrashDump
from compute_agent.drivers import fake
from compute_agent.drivers.base import Driver
from tests.chaos.hypervisor import CURRENT_ACTION, ChaosHypervisor, read_clock

_LOOK_AGAIN = 0.05
"""Seconds after which the host's clock is looked at for having been set."""


class _WrongClock:
    """The machine's clock, and by how much this host's differs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offset = timedelta()
        self._look_at = 0.0

    def now(self) -> datetime:
        if time.monotonic() >= self._look_at:
            self._offset = timedelta(seconds=read_clock(self._directory))
            self._look_at = time.monotonic() + _LOOK_AGAIN
        return datetime.now(UTC) + self._offset


def main() -> int:
    directory = Path(os.environ["CHAOS_HOST"])

    def create_driver(conf: cfg.ConfigOpts, clock: Clock) -> Driver:
        fake.register_options(conf)
        hypervisor = ChaosHypervisor(clock, directory, seed=conf.fake.seed, call_bound=conf.fake.call_bound)
        hypervisor.resume_repairs()
        return hypervisor.driver

    clock = _WrongClock(directory)
    SystemClock.now = lambda _self: clock.now()  # type: ignore[method-assign,assignment]
    carry_out = CrashDump.carry_out

    def carry_out_named(self: CrashDump, action: Any, *arguments: Any) -> Any:
        token = CURRENT_ACTION.set(action.request.id)
        try:
            return carry_out(self, action, *arguments)
        finally:
            CURRENT_ACTION.reset(token)

    CrashDump.carry_out = carry_out_named  # type: ignore[method-assign,assignment]
    fake.create_driver = create_driver
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
