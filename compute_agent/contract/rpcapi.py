"""ComputeAgentAPI: one method per verb, casts and calls to the agent of a host.

Everything is sent with the *lowest* version in which that verb has its form (from ``versions.RPC_HISTORY``). What the agent, or a pin,
does not take is refused before anything is sent; optional arguments that it does not know are left out. A cast that raises was *perhaps
delivered*, except :class:`NotDelivered`: it was refused here, or the broker said that the host has no queue.

Each attempt is signed anew, where there is a signer: an agent refuses what it has seen.
"""

from collections.abc import Callable
from typing import Any, Protocol

from compute_agent.contract import versions
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import ActionKind, ActionRequest, BlackBoxChunk, EventRange, PingReply
from compute_agent.contract.signing import CastSigner
from compute_agent.contract.transport import CALL_TOPIC, RPC_TOPIC, oslo_messaging

METHOD_OF_KIND: dict[ActionKind, str] = {kind: kind.value for kind in ActionKind}
"""The RPC method that casts an action of each kind."""


class NotDelivered(Exception):
    """Nothing was delivered; the text says why."""


class Unroutable(NotDelivered):
    """The broker returned the cast: the host has no queue."""


class VersionTooLow(NotDelivered):
    """The agent may not be told anything of that version now; nothing was sent."""


class ActionCaster(Protocol):
    """What the dispatcher needs of :class:`ComputeAgentAPI`."""

    def cast_action(self, request: ActionRequest) -> None: ...

    def cancel_action(self, request: ActionRequest) -> None: ...

    def resend_events(self, host: str, events: EventRange) -> None: ...

    def report_inventory(self, host: str) -> None: ...


class ComputeAgentAPI:
    """The client side of the RPC contract.

    :param transport: from :func:`compute_agent.contract.transport.create_rpc_transport`
    :param get_cap: the highest RPC version that the agent of a host may be told now; None: this release's own, whoever it is
    :param signer: signs everything that is sent; None: nothing is signed, and agents that trust certain keys refuse it
    """

    def __init__(
        self,
        transport: oslo_messaging.Transport,
        get_cap: Callable[[str], str] | None = None,
        signer: CastSigner | None = None,
    ) -> None:
        self._get_cap = get_cap
        self._signer = signer
        # Neither the version of the target itself nor this cap is used where there are better ones: every call prepares its own.
        self._casts, self._calls = (
            oslo_messaging.get_rpc_client(
                transport,
                oslo_messaging.Target(topic=topic, version=versions.RPC_HISTORY[0].number),
                version_cap=versions.RPC_API_VERSION,
                retry=0,
            )
            for topic in (RPC_TOPIC, CALL_TOPIC)
        )

    def cast_action(self, request: ActionRequest) -> None:
        """Cast one action to ``request.host``.

        :raises NotDelivered: nothing was.
        :raises Exception: anything else means that it was perhaps delivered.
        """
        self._cast(request.host, METHOD_OF_KIND[request.kind], {"action": request.to_wire()})

    def cancel_action(self, request: ActionRequest) -> None:
        """Cast that an action is called off, with all of its request: an agent that has not got it yet then knows what never to begin.

        :raises NotDelivered: nothing was.
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
        :raises VersionTooLow: the agent, or the pin, does not take it.
        """
        return DiagnosticsReply.from_wire(self._call(host, "get_diagnostics", timeout, server=server, history=history))

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        """Call the agent for a piece of one part of a black box, from byte ``offset`` on. ``timeout`` as for :meth:`ping`.

        :raises oslo_messaging.MessagingTimeout: no answer in time.
        :raises VersionTooLow: the agent, or the pin, does not take it.
        """
        return BlackBoxChunk.from_wire(self._call(host, "get_black_box", timeout, black_box_id=black_box_id, part=part, offset=offset))

    def _call(self, host: str, method: str, timeout: float, **arguments: Any) -> Any:
        context, known = self._prepare(self._calls, host, method, arguments, timeout=timeout)
        return context.call(self._sign(host, method, known), method, **known)

    def _cast(self, host: str, method: str, arguments: dict[str, Any]) -> None:
        context, known = self._prepare(
            self._casts, host, method, arguments, transport_options=oslo_messaging.TransportOptions(at_least_once=True)
        )
        try:
            context.cast(self._sign(host, method, known), method, **known)
        except oslo_messaging.exceptions.MessageUndeliverable as error:
            raise Unroutable(f"host {host} has no queue at the broker; is its agent running?") from error

    def _prepare(self, client: Any, host: str, method: str, arguments: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
        """What to send with (a call context), and those of the arguments that the agent knows.

        :raises VersionTooLow: it does not know the method.
        """
        if self._get_cap is not None:
            options["version_cap"] = self._get_cap(host)
        needed = versions.get_version_of_method(method)
        context = client.prepare(server=host, version=needed, retry=0, **options)
        if not context.can_send_version():
            raise VersionTooLow(f"host {host} may be told no more than RPC version {context.version_cap}; {method} needs {needed}")
        brought = {argument: versions.get_version_of_argument(method, argument) for argument in arguments}
        known = {argument: value for argument, value in arguments.items() if context.can_send_version(brought[argument])}
        highest = max((needed, *(brought[argument] for argument in known)), key=_find_position)
        return (context if highest == needed else context.prepare(version=highest)), known

    def _sign(self, host: str, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {} if self._signer is None else self._signer.sign(host, method, arguments)


def _find_position(version: str) -> int:
    """Versions are strings that do not sort."""
    return next(position for position, known in enumerate(versions.RPC_HISTORY) if known.number == version)
