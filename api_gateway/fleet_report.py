"""Which releases a fleet runs, and what a pin comes to over it: what ``crashcart-manage versions`` shows and ``upgrade-check`` judges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api_gateway.fleet_versions import find_lowest_version
from api_gateway.pins import Pin
from api_gateway.store.agent_versions import AgentVersions
from api_gateway.version_numbers import find_version, understands
from compute_agent.contract import versions
from compute_agent.contract.text import clean_line

_NAMED = 5
"""Hosts that a sentence names; a fleet has thousands."""


@dataclass(frozen=True)
class Group:
    """The hosts whose agents say the same of themselves."""

    release: str
    rpc_version: str
    event_version: str
    agents: tuple[AgentVersions, ...]

    @property
    def down(self) -> list[AgentVersions]:
        return [agent for agent in self.agents if agent.down_since is not None]


@dataclass(frozen=True)
class Standing:
    """A pin over a fleet. ``cap``: the highest RPC version that anybody is told. ``held_back_by``: whose agents an automatic pin waits
    for. ``is_needless``: it is lower than any agent needs. ``text`` says all of it."""

    cap: str
    held_back_by: tuple[AgentVersions, ...]
    is_needless: bool
    text: str


def group_agents(agents: Iterable[AgentVersions]) -> list[Group]:
    """By release, oldest first; what cannot be read comes before all others."""
    found: dict[tuple[str, str, str], list[AgentVersions]] = {}
    for agent in agents:
        found.setdefault((agent.release, agent.rpc_version, agent.event_version), []).append(agent)
    groups = [Group(*said, tuple(of_it)) for said, of_it in found.items()]
    return sorted(groups, key=lambda group: (find_version(group.release) or (-1, -1), group.rpc_version, group.event_version))


def list_untold(agents: Iterable[AgentVersions]) -> list[AgentVersions]:
    """Those that this release can tell nothing: of another major version, or with one that cannot be read."""
    return [agent for agent in agents if not understands(agent.rpc_version, versions.RPC_HISTORY[0].number)]


def list_down(agents: Iterable[AgentVersions]) -> list[AgentVersions]:
    """Those that are down, for the longest time first."""
    down = [(agent.down_since, agent) for agent in agents if agent.down_since is not None]
    return [agent for _, agent in sorted(down, key=lambda pair: (pair[0], pair[1].host))]


def format_since(agent: AgentVersions) -> str:
    """When it went down, to the second."""
    return "" if agent.down_since is None else f"since {agent.down_since.isoformat(timespec='seconds')}"


def name_hosts(agents: Sequence[AgentVersions]) -> str:
    """The first few by name, and how many more there are."""
    names = ", ".join(agent.host for agent in agents[:_NAMED])
    return names if len(agents) <= _NAMED else f"{names} and {len(agents) - _NAMED} more"


def name_with_release(agents: Sequence[AgentVersions]) -> str:
    """As :func:`name_hosts`, with what their agents say of themselves."""
    groups = group_agents(agents)
    return "; ".join(f"{name_hosts(group.agents)} (release {clean_line(group.release)})" for group in groups)


def judge_pin(pin: Pin, agents: Sequence[AgentVersions]) -> Standing:
    """What ``pin`` comes to now."""
    lowest = find_lowest_version(agent.rpc_version for agent in agents) or versions.RPC_API_VERSION
    slowest = tuple(agent for agent in agents if agent.rpc_version == lowest and lowest != versions.RPC_API_VERSION)
    if pin.is_automatic:
        said = f"[upgrade_levels] compute_agent = {pin.configured}: agents are told no more than RPC version {lowest}, "
        return Standing(
            lowest, slowest, False, said + (f"held back by {name_with_release(slowest)}" if slowest else "all of this release's")
        )
    if pin.cap is None:
        said = "no pin: each agent is told as much as its own release takes"
        behind = f"; not all of this release's: {name_with_release(slowest)}" if slowest else ""
        return Standing(versions.RPC_API_VERSION, (), False, said + behind)
    said = f"[upgrade_levels] compute_agent = {pin.configured}: agents are told no more than RPC version {pin.cap}, "
    if not agents:
        return Standing(pin.cap, (), False, f"{said}and none was heard yet")
    if not understands(pin.cap, lowest):
        return Standing(pin.cap, (), True, f"{said}lower than any of them needs: each speaks {lowest} or higher")
    if pin.cap != lowest:
        return Standing(
            pin.cap, (), False, f"{said}higher than some speak, which are refused the rest all the same: {name_with_release(slowest)}"
        )
    needed_by = f"which is what {name_with_release(slowest)} speak" if slowest else "all of this release's"
    return Standing(pin.cap, (), False, said + needed_by)
