"""Diagnostics out of the inventory, for servers whose agent is of a release that cannot be asked for any.

What only the host could say (times, counters, memory in use) is null, or left out where the format has no null.
"""

from datetime import datetime

from api_gateway.store.agents import AgentRow
from api_gateway.store.servers import ServerRow
from compute_agent.contract.diagnostics import CpuDetails, Diagnostics, DiagnosticsReport, MemoryDetails
from compute_agent.contract.models import PowerState

_KIB_PER_MIB = 1024
_MOST_CPUS = 8192
"""Twice what QEMU can give a machine: an answer has a line for each, and no host's word may make it endless."""
_DRIVERS_OF_VMS = frozenset({"libvirt", "fake"})
_WORD_OF_VMS, _WORD_OF_MACHINES = "libvirt", "ironic"
"""The format has a closed list of words: everything that runs virtual machines, the fake driver too, says the first one."""


def find_inventory_report(server: ServerRow, agent: AgentRow, now: datetime) -> DiagnosticsReport | None:
    """As of the agent's last heartbeat; None: it tells neither processors nor memory."""
    if server.vcpus is None and server.memory_mib is None:
        return None
    vcpus = min(max(server.vcpus or 0, 0), _MOST_CPUS)
    memory_mib = None if server.memory_mib is None else max(server.memory_mib, 0)
    return DiagnosticsReport(
        server=server.id,
        diagnostics=Diagnostics(
            state=PowerState(server.power_state) if server.power_state in tuple(PowerState) else PowerState.PENDING,
            driver=_WORD_OF_VMS if agent.capabilities.get("driver") in _DRIVERS_OF_VMS else _WORD_OF_MACHINES,
            uptime=None if server.started_at is None else max(0, int((now - server.started_at).total_seconds())),
            num_cpus=vcpus,
            cpu_details=tuple(CpuDetails(id=number) for number in range(vcpus)),
            memory_details=MemoryDetails(maximum=memory_mib),
        ),
        collected_at=agent.received_at,
        age=max((now - agent.received_at).total_seconds(), 0.0),
        errors={"all": f"The agent of release {agent.release} tells no diagnostics: this is what its inventory says."},
        free_form={} if memory_mib is None else {"memory": memory_mib * _KIB_PER_MIB},
    )
