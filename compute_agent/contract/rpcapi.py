"""ComputeAgentAPI: one method per verb, casts and calls to the agent of a host.

Every ``prepare`` names the *lowest* version in which that verb has its form (from ``versions.RPC_HISTORY``), so that a pin to an older
release refuses before anything is sent. A cast that raises was *perhaps delivered*, except :class:`Unroutable`: then the broker
said that the host has no queue, and nothing was delivered.

Each attempt is signed anew, where there is a signer: an agent refuses what it has seen.
"""

from typing import Any, Protocol

from compute_agent.contract import versions
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import ActionKind, ActionRequest, BlackBoxChunk, EventRange, PingReply
from compute_agent.contract.signing import CastSigner
from compute_agent.contract.transport import CALL_TOPIC, RPC_TOPIC, oslo_messaging

METHOD_OF_KIND: dict[ActionKind, str] = {kind: kind.value for kind in ActionKind}
"""The RPC method that casts an action of each kind."""


class Unroutable(Exception):
    """The broker returned the cast: the host has no queue. Nothing was delivered."""


class ActionCaster(Protocol):
    """What the dispatcher needs of :class:`ComputeAgentAPI`."""

    def cast_action(self, request: ActionRequest) -> None: ...

    def cancel_action(self, request: ActionRequest) -> None: ...

    def resend_events(self, host: str, events: EventRange) -> None: ...

    def report_inventory(self, host: str) -> None: ...


class ComputeAgentAPI:
    """The client side of the RPC contract.

    :param transport: from :func:`compute_agent.contract.transport.create_rpc_transport`
    :param pin: highest RPC version to send; None for this release's own
    :param signer: signs everything that is sent; None: nothing is signed, and agents that trust certain keys refuse it
    """

    def __init__(self, transport: oslo_messaging.Transport, pin: str | None = None, signer: CastSigner | None = None) -> None:
        self._signer = signer
        # The version of the target itself is never sent: every call prepares its own.
        self._casts, self._calls = (
            oslo_messaging.get_rpc_client(
                transport,
                oslo_messaging.Target(topic=topic, version=versions.RPC_HISTORY[0].number),
                version_cap=pin or versions.RPC_API_VERSION,
                retry=0,
            )
            for topic in (RPC_TOPIC, CALL_TOPIC)
        )

    def cast_action(self, request: ActionRequest) -> None:
        """Cast one action to ``request.host``.

        :raises Unroutable: nothing was delivered.
        :raises Exception: anything else means that it was perhaps delivered.
        """
        self._cast(request.host, METHOD_OF_KIND[request.kind], {"action": request.to_wire()})

    def cancel_action(self, request: ActionRequest) -> None:
        """Cast that an action is called off, with all of its request: an agent that has not got it yet then knows what never to begin.

        :raises Unroutable: nothing was delivered.
        :raises Exception: anything else means that it was perhaps delivered.
        """
        self._cast(request.host, "cancel_action", {"action": request.to_wire()})

    def resend_events(self, host: str, events: EventRange) -> None:
        """Ask the agent to publish a range of its outbox again, with the same message ids."""
        self._cast(host, "resend_events", {"events": events.to_wire()})

    def report_inventory(self, host: str) -> None:
        """Ask the agent for a heartbeat with its full inventory now."""
        self._cast(host, "report_inventory", {})

    def ping(self, host: str, timeout: float) -> PingReply:
        """Call the agent. ``timeout`` in seconds is not honoured while the connection is down: bound it outside as well.

        :raises oslo_messaging.MessagingTimeout: no answer in time.
        """
        return PingReply.from_wire(self._call(host, "ping", timeout))

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply:
        """Call the agent. ``timeout`` as for :meth:`ping`.

        :raises oslo_messaging.MessagingTimeout: no answer in time.
        :raises oslo_messaging.RPCVersionCapError: the pin forbids it.
        """
        return DiagnosticsReply.from_wire(self._call(host, "get_diagnostics", timeout, server=server, history=history))

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        """Call the agent for a piece of one part of a black box, from byte ``offset`` on. ``timeout`` as for :meth:`ping`.

        :raises oslo_messaging.MessagingTimeout: no answer in time.
        :raises oslo_messaging.RPCVersionCapError: the pin forbids it.
        """
        return BlackBoxChunk.from_wire(self._call(host, "get_black_box", timeout, black_box_id=black_box_id, part=part, offset=offset))

    def _call(self, host: str, method: str, timeout: float, **arguments: Any) -> Any:
        context = self._calls.prepare(server=host, version=versions.get_version_of_method(method), timeout=timeout, retry=0)
        return context.call(self._sign(host, method, arguments), method, **arguments)

    def _cast(self, host: str, method: str, arguments: dict[str, Any]) -> None:
        context = self._casts.prepare(
            server=host,
            version=versions.get_version_of_method(method),
            retry=0,
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),
        )
        try:
            context.cast(self._sign(host, method, arguments), method, **arguments)
        except oslo_messaging.exceptions.MessageUndeliverable as error:
            raise Unroutable(f"host {host} has no queue at the broker; is its agent running?") from error

    def _sign(self, host: str, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {} if self._signer is None else self._signer.sign(host, method, arguments)
