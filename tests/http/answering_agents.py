"""Agents that answer what they are asked, without a broker between."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import CpuDetails, Diagnostics, DiagnosticsReply, DiagnosticsReport, MemoryDetails
from compute_agent.contract.errors import Code
from compute_agent.contract.models import BlackBoxChunk, PowerState
from tests.contract import golden
from tests.http import fleet

_PIECE = 4
"""Bytes: so that any part comes in several pieces."""


@dataclass
class AnsweringAgents:
    """Implements AgentCaller. ``replies`` says what is answered of a server, or raises; of others a plain report comes, of DUMPED one with
    hardware. ``parts`` are what there is of black boxes, by the name of the part."""

    clock: Clock
    replies: dict[str, Callable[[], DiagnosticsReply]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=lambda: dict(fleet.BLACK_BOX_PARTS))
    asked: list[str] = field(default_factory=list)

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply:
        self.asked.append(server)
        if server in self.replies:
            return self.replies[server]()
        if server == fleet.UNMEASURED:
            return DiagnosticsReply.refuse(Code.NOT_SUPPORTED, "The driver cannot tell.")
        report = build_report(self.clock, server, fleet.get_power_state(server))
        if server == fleet.DUMPED:
            report = report.model_copy(update={"hardware": golden.REPORT.hardware})
        return DiagnosticsReply(report=report, history=(report, report) if history else ())

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        contents = self.parts.get(part)
        if contents is None:
            return BlackBoxChunk(total=None)
        return BlackBoxChunk(total=len(contents), content=base64.b64encode(contents[offset : offset + _PIECE]).decode())


def build_report(clock: Clock, server: str, power_state: PowerState = PowerState.RUNNING, *, uptime: int = 60) -> DiagnosticsReport:
    return DiagnosticsReport(
        server=server,
        diagnostics=Diagnostics(
            state=power_state,
            driver="libvirt",
            hypervisor="kvm",
            hypervisor_os="Debian GNU/Linux 12 (bookworm)",
            uptime=uptime,
            num_cpus=1,
            cpu_details=(CpuDetails(id=0, time=17_300_000_000, utilisation=15),),
            memory_details=MemoryDetails(maximum=512),
        ),
        collected_at=clock.now(),
        errors={"disk vdb": "no counters"},
        free_form={"cpu0_time": 17_300_000_000, "memory": 524_288},
    )
