"""Take a crash dump on, or say why not.

The checks and the new row share one transaction, so that of two requests at a time the second sees the first. What only the host can know
(is the guest running, can its driver inject an NMI) is not asked here: the action is accepted and ends with the answer.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from api_gateway.server_checks import Refused, check_server
from api_gateway.store import Connection, actions, agents
from api_gateway.store.actions import ActionRow, ActionState
from api_gateway.store.servers import ServerRow
from compute_agent.contract import versions
from compute_agent.contract.models import ActionKind

LOG = logging.getLogger(__name__)


class TooManyOpen(Exception):
    """The server's host has as many open actions as it may; some of them have to end first."""


class AgentTooOld(Exception):
    """The release of the server's agent does not know this kind of action."""


class IdempotencyKeyReused(Exception):
    """The same key came with another content before."""


@dataclass(frozen=True)
class CrashDump:
    """A crash dump as it was asked for. ``id`` is the request's id and becomes the action's. ``passes_locks``: an admin asks."""

    id: str
    project: str
    user: str
    deadline: timedelta
    force: bool = False
    passes_locks: bool = False
    idempotency_key: str | None = None
    global_request_id: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The action, and whether this request made it (False: an earlier one with the same idempotency key did)."""

    action: ActionRow
    new: bool


def accept_crash_dump(
    c: Connection, server: ServerRow, asked: CrashDump, *, now: datetime, holdoff: timedelta, max_open: int | None = None
) -> Accepted:
    """Insert the action; the caller commits before it answers.

    :param max_open: how many open actions the server's host may have with this one; None: as many as come
    :raises Refused: the server's state forbids it, or an earlier crash dump may still be running.
    :raises AgentTooOld: the agent of its host cannot take it.
    :raises TooManyOpen: its host has enough to do.
    :raises IdempotencyKeyReused: see there.
    """
    if asked.idempotency_key is not None:
        earlier = actions.find_by_idempotency_key(c, server.id, asked.project, asked.user, asked.idempotency_key)
        if earlier is not None:
            return _repeat(earlier, asked)
    check_server(server, passes_locks=asked.passes_locks)
    _check_agent(c, server.host)
    if not asked.force:
        _check_holdoff(c, server, now, holdoff)
    if max_open is not None and actions.count_open_of_host(c, server.host) >= max_open:
        raise TooManyOpen(f"The host of instance {server.id} has {max_open} open actions already, as many as it may; try again later.")
    row = ActionRow(
        id=asked.id,
        kind=ActionKind.TRIGGER_CRASH_DUMP,
        server=server.id,
        server_generation=server.generation,
        host=server.host,
        project=asked.project,
        user=asked.user,
        state=ActionState.ACCEPTED,
        accepted_at=now,
        deadline=now + asked.deadline,
        updated_at=now,
        force=asked.force,
        idempotency_key=asked.idempotency_key,
        global_request_id=asked.global_request_id,
    )
    actions.insert_action(c, row)
    return Accepted(row, new=True)


def log_accepted(action: ActionRow) -> None:
    """One line per accepted action; call it after the commit."""
    LOG.info(
        "action %s accepted: %s of server %s on host %s by user %s of project %s, deadline %s, global request %s",
        action.id,
        action.kind,
        action.server,
        action.host,
        action.user,
        action.project,
        action.deadline.isoformat(),
        action.global_request_id,
    )


def _repeat(earlier: ActionRow, asked: CrashDump) -> Accepted:
    same = earlier.deadline - earlier.accepted_at == asked.deadline and earlier.force == asked.force
    if not same or earlier.kind != ActionKind.TRIGGER_CRASH_DUMP:
        raise IdempotencyKeyReused(f"This idempotency key was used for action {earlier.id}, which asked for something else.")
    return Accepted(earlier, new=False)


def _check_agent(c: Connection, host: str) -> None:
    agent = agents.find_agent(c, host)
    if agent is None:
        return  # it has not been heard of since its host was forgotten; the action waits for it until its deadline
    needed = versions.get_version_of_method(ActionKind.TRIGGER_CRASH_DUMP)
    if not _understands(agent.rpc_version, needed):
        raise AgentTooOld(
            f"The agent of host {host} (release {agent.release}) speaks RPC version {agent.rpc_version}; "
            f"trigger_crash_dump needs {needed}. Upgrade that agent."
        )


def _understands(spoken: str, needed: str) -> bool:
    """The same major number and at least the same minor one."""
    (spoken_major, spoken_minor), (needed_major, needed_minor) = (_split(version) for version in (spoken, needed))
    return spoken_major == needed_major and spoken_minor >= needed_minor


def _split(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _check_holdoff(c: Connection, server: ServerRow, now: datetime, holdoff: timedelta) -> None:
    blocking = actions.find_blocking_crash_dump(c, server.id, now=now, holdoff=holdoff)
    if blocking is not None:
        raise Refused(
            f"Cannot 'trigger_crash_dump' instance {server.id}: crash_dump_in_progress, an earlier crash dump, action {blocking.id}, "
            "may still be running. A guest that is writing its dump looks as if nothing happened; do not trigger again."
        )
