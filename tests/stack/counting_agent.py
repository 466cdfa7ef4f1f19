"""``crashcart-agent`` over a fake hypervisor whose signals outlive it: ``python -m tests.stack.counting_agent --config-file …``.

Each NMI is written to ``$SIGNALS/<server>`` before it takes effect, so a second one shows even after kill -9. While ``$SIGNALS/hold``
exists a call does not come back. The machines are those of the host: the same ones, in the same run, in every life of the agent.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from oslo_config import cfg

from compute_agent import service
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import PowerState
from compute_agent.drivers import fake
from compute_agent.drivers.base import Driver
from compute_agent.drivers.fake import FakeHypervisor, NmiEffect
from devstack.services import wait_until

SURVIVING, PANICKING, SHUT_OFF = 12, 4, 2
LONGEST_HOLD = 120.0
"""Seconds after which a held call comes back in any case."""


class CountingHypervisor(FakeHypervisor):
    """Counts on disk."""

    def inject_nmi(self, server: str) -> None:
        folder = Path(os.environ["SIGNALS"])
        if self.get_server(server).power_state in (PowerState.RUNNING, PowerState.PAUSED):
            with (folder / server).open("a") as file:
                file.write("N")
        super().inject_nmi(server)
        wait_until(lambda: not (folder / "hold").exists(), LONGEST_HOLD, "the hold to be lifted")


def create_driver(conf: cfg.ConfigOpts, clock: Clock) -> Driver:
    """Instead of the fake driver's own: ``SURVIVING`` servers, then ``PANICKING``, then ``SHUT_OFF`` ones."""
    fake.register_options(conf)
    hypervisor = CountingHypervisor(clock, seed=conf.fake.seed, call_bound=conf.fake.call_bound)
    for number in range(SURVIVING + PANICKING + SHUT_OFF):
        effect = NmiEffect.PANIC if SURVIVING <= number < SURVIVING + PANICKING else NmiEffect.SURVIVE
        state = PowerState.SHUTDOWN if number >= SURVIVING + PANICKING else PowerState.RUNNING
        server = hypervisor.make_server(effect=effect, power_state=state)
        if state is PowerState.RUNNING:
            hypervisor.change(server, started_at=datetime(2026, 1, 1, tzinfo=UTC))
    return hypervisor.driver


if __name__ == "__main__":
    fake.create_driver = create_driver
    sys.exit(service.main())
