"""``GET /servers/{id}/diagnostics``: what the inventory says of a server, in the format of the version in force.

What only its host could say now (times, counters, memory in use) is null, or left out where the format has no null.
"""

from datetime import datetime
from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.faults import Fault
from api_gateway.gateway import Gateway
from api_gateway.microversion import Since
from api_gateway.policy import permit
from api_gateway.store import agents
from api_gateway.store.agents import UP, AgentRow
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server
from compute_agent.contract.models import PowerState

_KIB_PER_MIB = 1024
_MOST_CPUS = 8192
"""Twice what QEMU can give a machine: an answer has a line for each, and no host's word may make it endless."""
_RETRY_AFTER_SECONDS = 30
"""An agent that is down is back with its next heartbeat at the earliest."""

_NOT_RUNNING = frozenset({PowerState.SHUTDOWN, PowerState.SUSPENDED})
_DRIVER_WORDS = {"ipmi": "ironic", "redfish": "ironic"}
_DRIVER_WORD = "libvirt"
"""The format has a closed list of words: everything that runs virtual machines, the fake driver too, says this one."""


def show_diagnostics(gateway: Gateway, request: Request, response: falcon.Response, server_id: str) -> None:
    with gateway.store.read() as c:
        server = get_visible_server(c, request.context.identity, server_id)
        permit(request.context.identity, "os_compute_api:os-server-diagnostics", server.project)
        agent = agents.find_agent(c, server.host)
    up = _check_answerable(server, agent)
    if request.context.version >= Since.DIAGNOSTICS:
        answer_json(response, _view(server, up, gateway.clock.now()))
    else:
        answer_json(response, _view_old(server))


def _check_answerable(server: ServerRow, agent: AgentRow | None) -> AgentRow:
    """The agent that is up and knows the server.

    :raises Fault: 409 when the server is nowhere or does not run, 503 while its agent is down, 501 when that tells nothing of it.
    """
    if server.missing_since is not None:
        raise Fault(409, f"Instance {server.id} is not ready")
    if agent is None or agent.state != UP:
        raise Fault(503, f"The agent of the host of instance {server.id} is down; try again later.", retry_after=_RETRY_AFTER_SECONDS)
    if server.power_state in _NOT_RUNNING:
        raise Fault(409, f"Cannot 'get_diagnostics' instance {server.id} while it is in power state {server.power_state}")
    if server.vcpus is None and server.memory_mib is None:
        raise Fault(501, "The requested functionality is not supported.")
    return agent


def _view(server: ServerRow, agent: AgentRow, now: datetime) -> dict[str, Any]:
    """Every key is always there."""
    vcpus = min(max(server.vcpus or 0, 0), _MOST_CPUS)
    return {
        "state": server.power_state if server.power_state in tuple(PowerState) else PowerState.PENDING,
        "driver": _DRIVER_WORDS.get(str(agent.capabilities.get("driver")), _DRIVER_WORD),
        "hypervisor": None,
        "hypervisor_os": None,
        "uptime": None if server.started_at is None else max(0, int((now - server.started_at).total_seconds())),
        "config_drive": False,
        "num_cpus": vcpus,
        "num_nics": 0,
        "num_disks": 0,
        "memory_details": {"maximum": server.memory_mib, "used": None},
        "cpu_details": [{"id": number, "time": None, "utilisation": None} for number in range(vcpus)],
        "nic_details": [],
        "disk_details": [],
    }


def _view_old(server: ServerRow) -> dict[str, int]:
    """Numbers by their names; what is not known is not there."""
    return {} if server.memory_mib is None else {"memory": server.memory_mib * _KIB_PER_MIB}
