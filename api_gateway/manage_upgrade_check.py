"""``crashcart-manage upgrade-check``: whether this release may run here, as an exit status, in sentences, or as JSON."""

import argparse
import json
from collections.abc import Callable, Sequence

from oslo_config import cfg

from api_gateway.store import Store
from api_gateway.store.agent_versions import list_agent_versions
from api_gateway.store.phases import Phase
from api_gateway.upgrade_checks import Finding, Result, check_agents, check_pin, check_tables, get_worst
from compute_agent.contract.clock import Clock

CheckQueues = Callable[[cfg.ConfigOpts], list[Finding]]


def check_upgrade(
    conf: cfg.ConfigOpts, store: Store, arguments: argparse.Namespace, clock: Clock, check_queues: CheckQueues | None = None
) -> tuple[str, int]:
    """All checks; what to print, and the exit status.

    :param check_queues: None: at the broker of ``conf``
    :raises StoreError: the database cannot be read.
    """
    findings = [*_check_store(conf, store, clock), *(check_queues or _check_queues)(conf)]
    worst = get_worst(findings)
    if arguments.json:
        checks = [{"check": finding.check, "result": finding.result.name.lower(), "text": finding.text} for finding in findings]
        return json.dumps({"result": worst.name.lower(), "status": int(worst), "checks": checks}, indent=2), int(worst)
    return "\n".join([*_list_lines(findings), _CONCLUSIONS[worst]]), int(worst)


_CONCLUSIONS = {
    Result.SUCCESS: "ready",
    Result.WARNING: "ready, and somebody should look at the warnings",
    Result.FAILURE: "not ready",
}


def _list_lines(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.result.name.lower():8} {finding.check}: {finding.text}" for finding in findings]


def _check_store(conf: cfg.ConfigOpts, store: Store, clock: Clock) -> list[Finding]:
    pending = store.list_pending_migrations()
    findings = check_tables(pending)
    if any(migration.phase is Phase.BASELINE for migration in pending):
        return findings  # there are perhaps no tables, and so no agents
    with store.read() as c:
        agents = list_agent_versions(c)
    return [*findings, *check_agents(agents, now=clock.now()), *check_pin(conf.upgrade_levels.compute_agent, agents)]


def _check_queues(conf: cfg.ConfigOpts) -> list[Finding]:
    # Here: the messaging libraries are large, and no other command needs them.
    from api_gateway.queue_checks import check_queues
    from compute_agent.contract.broker import BrokerAddress, find_tls
    from compute_agent.contract.transport import register_messaging_options

    register_messaging_options(conf)
    try:
        address = BrokerAddress(conf.transport_url, name="crashcart-manage", tls=find_tls(conf))
    except ValueError as error:
        return [Finding("queues", Result.WARNING, f"the broker's queues were not looked at: {error}")]
    return check_queues(address)
