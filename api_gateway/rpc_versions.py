"""Which verbs an agent can be told: what its release speaks, and what an operator pinned the gateway to; and the sentence that refuses."""

from typing import Protocol

from api_gateway.fleet_versions import FleetVersions
from api_gateway.pins import UNPINNED, Pin
from api_gateway.store import Connection
from api_gateway.version_numbers import find_version, understands
from compute_agent.contract import versions


class AgentTooOld(Exception):
    """The agent, or the pin, does not take the method; the text says which, and what to do. Nothing was written or sent."""


class Speaker(Protocol):
    """An agent as of its last heartbeat; what it says of itself may be anything."""

    @property
    def host(self) -> str: ...

    @property
    def release(self) -> str: ...

    @property
    def rpc_version(self) -> str: ...


class Speech:
    """What this gateway may say to agents; asks anew each time, so that nobody is restarted for agents that come and go.

    :param fleet: what agents speak, for an automatic pin and for :meth:`get_cap`; without it nobody is known
    """

    def __init__(self, pin: Pin = UNPINNED, fleet: FleetVersions | None = None) -> None:
        self._pin = pin
        self._fleet = fleet

    def find_obstacle(self, method: str, agent: Speaker, c: Connection | None = None) -> str | None:
        """Why ``agent`` cannot be told ``method``, as a sentence with advice; None: it can.

        :param c: the transaction that the caller is in, if any: there is no second one inside it
        :raises StoreError: the agents of an automatic pin could not be read.
        """
        needed = versions.get_version_of_method(method)
        if self._fleet is not None:
            self._fleet.note_spoken(agent.host, agent.rpc_version)
        if not understands(agent.rpc_version, needed):
            return (
                f"The agent on {agent.host} (release {agent.release}) does not support this: {method} needs RPC version {needed}, "
                f"it speaks {agent.rpc_version}. Upgrade that agent."
            )
        if understands(self._get_pinned(c), needed):
            return None
        if not self._pin.is_automatic:
            return (
                f"This gateway is pinned to RPC version {self._pin.cap} and does not tell the agent on {agent.host} (release "
                f"{agent.release}) this: {method} needs {needed}. Change [upgrade_levels] compute_agent."
            )
        cap = self._get_pinned(c, is_fresh=True)  # the last old agent may have gone a moment ago
        if understands(cap, needed):
            return None
        return (
            f"Some agent speaks no more than RPC version {cap}, so none is told this: {method} needs {needed}. Upgrade the agents that "
            "crashcart-manage versions names, or forget their hosts ([upgrade_levels] compute_agent = auto)."
        )

    def refuse_unless_taken(self, method: str, agent: Speaker, c: Connection | None = None) -> None:
        """:raises AgentTooOld: with the sentence of :meth:`find_obstacle`.
        :raises StoreError: as there.
        """
        obstacle = self.find_obstacle(method, agent, c)
        if obstacle is not None:
            raise AgentTooOld(obstacle)

    def get_cap(self, host: str) -> str:
        """The highest RPC version that the agent of ``host`` may be told now. Call it in no transaction.

        :raises StoreError: what agents speak could not be read.
        """
        pinned = self._get_pinned(None)
        spoken = None if self._fleet is None else self._fleet.find_spoken(host)
        if spoken is None or understands(spoken, pinned):
            return pinned
        return spoken if find_version(spoken) is not None else versions.NO_RPC_VERSION

    def _get_pinned(self, c: Connection | None, *, is_fresh: bool = False) -> str:
        if self._pin.is_automatic and self._fleet is not None:
            return self._fleet.find_lowest(c, is_fresh=is_fresh) or versions.RPC_API_VERSION
        return self._pin.cap or versions.RPC_API_VERSION
