"""What agents speak by their last heartbeats: few columns, all of which every release's tables have."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from api_gateway.store.columns import columns_of
from api_gateway.store.tables import agents


@dataclass(frozen=True)
class AgentVersions:
    """One host's agent. The versions are its own words, so they may be anything. ``down_since`` None: it is up."""

    host: str
    release: str
    rpc_version: str
    event_version: str
    received_at: datetime
    down_since: datetime | None


_SPOKEN = select(agents.c.rpc_version).distinct()
_SPOKEN_BY = select(agents.c.rpc_version).where(agents.c.host == bindparam("key_host"))
_ALL = select(*columns_of(agents, AgentVersions)).order_by(agents.c.host)
_OF_HOSTS = select(*columns_of(agents, AgentVersions)).where(agents.c.host.in_(bindparam("hosts", expanding=True)))


def list_spoken_versions(c: Connection) -> list[str]:
    """Each RPC version that some known host's agent said it speaks, once; also of agents that are down."""
    return list(c.execute(_SPOKEN).scalars())


def find_spoken_version(c: Connection, host: str) -> str | None:
    """What the agent of ``host`` said it speaks; None: it was never heard."""
    version: str | None = c.execute(_SPOKEN_BY, {"key_host": host}).scalar_one_or_none()
    return version


def list_agent_versions(c: Connection) -> list[AgentVersions]:
    """By host name."""
    return [AgentVersions(*row) for row in c.execute(_ALL)]


def list_versions_of(c: Connection, hosts: Sequence[str]) -> dict[str, AgentVersions]:
    """By host: those of these that were ever heard."""
    return {row[0]: AgentVersions(*row) for row in c.execute(_OF_HOSTS, {"hosts": hosts})}
