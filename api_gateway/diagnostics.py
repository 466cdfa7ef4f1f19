"""What a server's diagnostics are now: asked of its agent, else the last that was known, else a refusal, and never later than a limit.

Both APIs show the same, each in its own form.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from api_gateway.agent_calls import PAUSE_SECONDS, NoAnswer
from api_gateway.faults import Fault
from api_gateway.gateway import Gateway
from api_gateway.inventory_diagnostics import find_inventory_report
from api_gateway.last_reports import KnownReport, choose_usable
from api_gateway.store import diagnostics as stored_diagnostics
from api_gateway.store.agents import UP, AgentRow
from api_gateway.store.servers import ServerRow
from compute_agent.contract.diagnostics import DiagnosticsReport
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState

_RETRY_WHEN_DOWN_SECONDS = 30
"""An agent that is down is back with its next heartbeat at the earliest."""
_CAPABILITY = "diagnostics"
_ELSEWHERE = frozenset({Code.SERVER_NOT_FOUND, Code.SERVER_MOVED})
_STANDING_STILL = frozenset({PowerState.SHUTDOWN, PowerState.SUSPENDED})


class Source(StrEnum):
    """Where diagnostics came from."""

    HOST = "host"
    LAST_KNOWN = "last_known"
    INVENTORY = "inventory"


@dataclass(frozen=True)
class Told:
    """Diagnostics and where they are from; ``history`` oldest first, empty unless it was asked for and the host answered."""

    report: DiagnosticsReport
    source: Source
    history: tuple[DiagnosticsReport, ...] = ()


def get_diagnostics(gateway: Gateway, server: ServerRow, agent: AgentRow | None, *, history: bool = False) -> Told:
    """Ask for them.

    :raises Fault: 409 when the server is not on its host, 501 when that cannot tell any, 503 when nobody can say anything now.
    """
    if server.missing_since is not None:
        raise _not_ready(server)
    if agent is None or agent.state != UP:
        reason = f"The agent of the host of instance {server.id} is down; try again later."
        return _recall(gateway, server, reason, retry_after=_RETRY_WHEN_DOWN_SECONDS)
    obstacle = gateway.speech.find_obstacle("get_diagnostics", agent)
    if obstacle is not None:
        report = find_inventory_report(server, agent, gateway.clock.now())
        if report is None:
            raise _unsupported()
        return Told(report, Source.INVENTORY)
    if not agent.capabilities.get(_CAPABILITY, False):
        raise _unsupported()
    return _ask(gateway, server, history=history)


def check_runs(server: ServerRow, state: str) -> None:
    """The Compute API's rule; paused and crashed servers have diagnostics here, which is when they are wanted most.

    :raises Fault: 409 when the server does not run.
    """
    if state in _STANDING_STILL:
        raise Fault(409, f"Cannot 'get_diagnostics' instance {server.id} while it is in power state {state}")


def _ask(gateway: Gateway, server: ServerRow, *, history: bool) -> Told:
    try:
        reply = gateway.agent_calls.get_diagnostics(server.host, server.id, history=history)
    except NoAnswer as error:
        return _recall(gateway, server, str(error))
    if reply.report is not None:
        gateway.last_reports.keep(KnownReport(reply.report, server.host, gateway.clock.now()))
        return Told(reply.report, Source.HOST, reply.history)
    if reply.code == Code.NOT_SUPPORTED:
        raise _unsupported()
    if reply.code in _ELSEWHERE:
        raise _not_ready(server)
    if reply.code == Code.SERVER_NOT_RUNNING:
        raise Fault(409, f"Cannot 'get_diagnostics' instance {server.id}: {reply.reason}")
    return _recall(gateway, server, f"The host of instance {server.id} has no diagnostics now: {reply.reason}")


def _recall(gateway: Gateway, server: ServerRow, reason: str, *, retry_after: int = PAUSE_SECONDS) -> Told:
    """The last known ones.

    :raises Fault: 503 with ``reason`` when there are none of the server's present run.
    """
    with gateway.store.read() as c:
        stored = stored_diagnostics.find_report(c, server.id)
    now = gateway.clock.now()
    known = choose_usable(
        [gateway.last_reports.find(server.id), stored],
        host=server.host,
        run_since=_find_run_since(server),
        now=now,
        max_age=gateway.settings.diagnostics_max_age,
    )
    if known is None:
        raise Fault(503, reason, retry_after=retry_after)
    return Told(known.grow_old(now), Source.LAST_KNOWN)


def _find_run_since(server: ServerRow) -> datetime | None:
    return max((moment for moment in (server.reset_at, server.started_at) if moment is not None), default=None)


def _not_ready(server: ServerRow) -> Fault:
    return Fault(409, f"Instance {server.id} is not ready")


def _unsupported() -> Fault:
    return Fault(501, "The requested functionality is not supported.")
