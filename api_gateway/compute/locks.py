"""The actions ``lock`` and ``unlock``: done at once by the gateway, and recorded like everything that is done to a server.

A lock keeps everybody but admins from acting on a server. Whoever is in the server's own project locks it as its ``owner``, an admin too;
an admin elsewhere as ``admin``. Only an admin's lock can take the place of another one, and only an admin can undo the other kind.
"""

import logging
from typing import Any

from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.policy import permit
from api_gateway.store import Connection, actions, overlays
from api_gateway.store.actions import ActionRow, ActionState
from api_gateway.store.servers import ServerRow
from api_gateway.visibility import get_visible_server_to_change
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import DecidedBy

LOG = logging.getLogger(__name__)

LOCK, UNLOCK = "lock", "unlock"
OWNER, ADMIN = "owner", "admin"


def lock_server(gateway: Gateway, request: Request, server_id: str, argument: Any) -> None:
    """Nothing happens, and nothing is recorded, when the owner locks what is locked already."""
    identity = request.context.identity
    reason = argument.get("locked_reason") if isinstance(argument, dict) else None
    with gateway.store.write() as c:
        server = get_visible_server_to_change(c, identity, server_id)
        permit(identity, "os_compute_api:os-lock-server:lock", server.project)
        kind = _find_kind(request, server)
        if server.locked_by is not None and kind == OWNER:
            return
        now = gateway.clock.now()
        overlays.lock_server(c, server.id, locked_by=kind, reason=reason, now=now)
        _record(c, gateway, request, server, LOCK, f"Locked by {kind}{'' if reason is None else f': {reason}'}")
    _log(request, server, LOCK)


def unlock_server(gateway: Gateway, request: Request, server_id: str, _argument: Any) -> None:
    """Also done, and recorded, for a server that is not locked."""
    identity = request.context.identity
    with gateway.store.write() as c:
        server = get_visible_server_to_change(c, identity, server_id)
        permit(identity, "os_compute_api:os-lock-server:unlock", server.project)
        if server.locked_by not in (None, _find_kind(request, server)):
            permit(identity, "os_compute_api:os-lock-server:unlock:unlock_override", server.project)
        overlays.unlock_server(c, server.id, now=gateway.clock.now())
        _record(c, gateway, request, server, UNLOCK, "Unlocked")
    _log(request, server, UNLOCK)


def _find_kind(request: Request, server: ServerRow) -> str:
    return OWNER if request.context.identity.project == server.project else ADMIN


def _record(c: Connection, gateway: Gateway, request: Request, server: ServerRow, kind: str, reason: str) -> None:
    """An action that begins and ends with this request."""
    context, now = request.context, gateway.clock.now()
    actions.insert_action(
        c,
        ActionRow(
            id=context.request_id,
            kind=kind,
            server=server.id,
            server_generation=server.generation,
            host=server.host,
            project=context.identity.project,
            user=context.identity.user,
            state=ActionState.ENDED,
            accepted_at=now,
            deadline=now,
            updated_at=now,
            global_request_id=context.global_request_id,
            ended_at=now,
            ending=Ending.SUCCEEDED,
            code=f"{kind}ed",
            reason=reason,
            decided_by=DecidedBy.GATEWAY,
            recorded_at=now,
        ),
    )


def _log(request: Request, server: ServerRow, kind: str) -> None:
    """One line for each, after the commit."""
    context = request.context
    LOG.info(
        "action %s ended: %s of server %s by user %s of project %s, global request %s",
        context.request_id,
        kind,
        server.id,
        context.identity.user,
        context.identity.project,
        context.global_request_id,
    )
