"""Diagnostics of machines, as far as a BMC knows them."""

from collections.abc import Sequence

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import Hardware
from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import DiagnosticsSource
from compute_agent.drivers.bmc.fleet import Fleet
from compute_agent.drivers.bmc.limits import CallLimit
from compute_agent.drivers.bmc.protocol import MachineParts
from compute_agent.drivers.bmc.readings import Reading, Readings
from compute_agent.drivers.models import CollectedDiagnostics

DRIVER_WORD = "ironic"
"""The standard format has a closed list of drivers, Nova's; of those, ``ironic`` is the one for bare metal. No Ironic is needed for it."""


class BmcDiagnostics(DiagnosticsSource):
    """Asks the BMC for all that it knows: what the machine is made of, its sensors, its firmware, the end of its log."""

    def __init__(self, fleet: Fleet, readings: Readings, limit: CallLimit, clock: Clock) -> None:
        self._fleet = fleet
        self._readings = readings
        self._limit = limit
        self._clock = clock

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        link = self._fleet.get_machine(server).get_link()
        parts = link.bmc.read_parts(self._limit.begin(server).left())
        return CollectedDiagnostics(
            server=server,
            power_state=parts.state.power_state,
            collected_at=self._clock.now(),
            monotonic=self._clock.monotonic(),
            driver_word=DRIVER_WORD,
            started_at=parts.state.started_at,
            cpu_times=dict.fromkeys(range(parts.cpus or 0)),
            memory_maximum_kib=parts.memory_kib,
            nics=parts.nics,
            disks=parts.disks,
            errors=_list_errors(parts),
            hardware=parts.hardware,
        )

    def sample_servers(self) -> Sequence[CollectedDiagnostics]:
        """The last readings of those that are on: their power alone. A BMC counts nothing of which a rate could be made, and one reading
        of all its sensors takes it seconds.
        """
        read = [(machine.server, self._readings.find(machine.server)) for machine in self._fleet.list_machines()]
        return [_make_sample(server, reading) for server, reading in read if reading is not None and _is_on(reading)]


def _is_on(reading: Reading) -> bool:
    return reading.failure is None and reading.state is not None and reading.state.power_state is PowerState.RUNNING


def _make_sample(server: str, reading: Reading) -> CollectedDiagnostics:
    assert reading.state is not None
    assert reading.at is not None
    return CollectedDiagnostics(
        server=server,
        power_state=reading.state.power_state,
        collected_at=reading.at,
        monotonic=reading.ended,
        driver_word=DRIVER_WORD,
        started_at=reading.state.started_at,
        errors={"parts": "kept readings have the power alone; sensors, processors and the rest are in fresh answers only"},
        hardware=Hardware(power=reading.state.reason),
    )


def _list_errors(parts: MachineParts) -> dict[str, str]:
    """The format counts what it lists, so that nobody can tell a number that is not known from none: it is said here."""
    errors = dict(parts.errors)
    if parts.cpus is None:
        errors.setdefault("cpus", "the BMC does not tell how many processors there are")
    return errors
