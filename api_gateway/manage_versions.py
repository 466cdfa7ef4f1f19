"""``crashcart-manage versions``: which releases run where, and what the pin comes to."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from api_gateway.fleet_report import Group, format_since, group_agents, judge_pin, list_down, list_untold, name_with_release
from api_gateway.pins import read_pin
from api_gateway.store import Store
from api_gateway.store.agent_versions import AgentVersions, list_agent_versions
from compute_agent.contract import versions
from compute_agent.contract.text import clean_line

_LISTED = 10
"""Agents that are down and have a line each; ``--json`` names all."""


class PinUnknown(Exception):
    """``[upgrade_levels] compute_agent`` names nothing that this release knows; the text says what there is."""


def show_versions(conf: cfg.ConfigOpts, store: Store, arguments: argparse.Namespace) -> str:
    """For people, or with ``--json`` as one object.

    :raises PinUnknown: the API and the engine would not start either.
    :raises StoreError: the agents could not be read, or there are no tables of this release.
    """
    store.check_schema()
    with store.read() as c:
        agents = list_agent_versions(c)
    try:
        pin = read_pin(conf)
    except ValueError as error:
        raise PinUnknown(str(error)) from error
    standing = judge_pin(pin, agents)
    groups = group_agents(agents)
    if arguments.json:
        told = {
            "gateway": {
                "version": versions.VERSION,
                "release": versions.RELEASE,
                "rpc_version": versions.RPC_API_VERSION,
                "event_version": versions.EVENT_VERSION,
            },
            "pin": {
                "configured": pin.configured,
                "rpc_version": standing.cap,
                "held_back_by": [agent.host for agent in standing.held_back_by],
                "needless": standing.is_needless,
                "text": standing.text,
            },
            "fleet": [_view_group(group) for group in groups],
        }
        return json.dumps(told, indent=2)
    return "\n".join(_list_lines(groups, agents, standing.text))


def _list_lines(groups: Sequence[Group], agents: Sequence[AgentVersions], pin: str) -> list[str]:
    lines = [
        f"this gateway: {versions.VERSION}, RPC version {versions.RPC_API_VERSION}, event version {versions.EVENT_VERSION}",
        pin,
        f"agents: {len(agents)}",
    ]
    for group in groups:
        release, rpc, event = (clean_line(said) for said in (group.release, group.rpc_version, group.event_version))
        down = f", {len(group.down)} of them down" if group.down else ""
        lines.append(f"  release {release}, RPC version {rpc}, event version {event}: {len(group.agents)}{down}")
    down_longest = list_down(agents)
    lines += [f"  {agent.host} (release {clean_line(agent.release)}) is down {format_since(agent)}" for agent in down_longest[:_LISTED]]
    if len(down_longest) > _LISTED:
        lines.append(f"  and {len(down_longest) - _LISTED} more that have not been down for as long")
    untold = list_untold(agents)
    if untold:
        lines.append(f"this release can tell nothing to: {name_with_release(untold)}")
    return lines


def _view_group(group: Group) -> dict[str, Any]:
    return {
        "release": group.release,
        "rpc_version": group.rpc_version,
        "event_version": group.event_version,
        "hosts": len(group.agents),
        "down": [{"host": agent.host, "since": agent.down_since.isoformat()} for agent in group.agents if agent.down_since is not None],
    }
