"""Simulated BMCs go on, whatever happens to who commands them: a test that fails says something of the product."""

import os
import signal
from pathlib import Path

from devstack.ipmi_sim import IpmiSim
from tests.conformance.libvirt_host import require_real_parts


def test_a_console_that_was_closed_while_something_was_told_on_it_ends_no_bmc(tmp_path: Path) -> None:
    """The broken pipe is sent, because it comes by itself once in a few hundred commands."""
    require_real_parts()
    simulator = IpmiSim(tmp_path)
    simulator.start()
    try:
        os.kill(simulator.pid, signal.SIGPIPE)
        assert simulator.bmc.answers(timeout=10)
    finally:
        simulator.stop()
