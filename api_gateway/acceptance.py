"""Take an action on, or say why not.

The checks and the new row share one transaction, so that of two requests at a time the second sees the first. What only the host can know
(is the guest running, can its driver inject an NMI) is not asked here: the action is accepted and ends with the answer.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from api_gateway.circumstances import AskedFor, Circumstances, ReadAhead
from api_gateway.rpc_versions import AgentTooOld, Speech
from api_gateway.server_checks import (
    CRASH_DUMP,
    DIAGNOSTICS,
    HOST_DUMP,
    REMOVE_WATCHDOG,
    RESET_WATCHDOG_TIMER,
    RESUME,
    SET_WATCHDOG,
    Refused,
    ServerChecks,
    Subject,
)
from api_gateway.store import Connection, actions, agents
from api_gateway.store.actions import ActionRow, ActionState
from api_gateway.store.agents import AgentRow
from api_gateway.store.prospects import Prospect
from api_gateway.store.servers import ServerRow
from api_gateway.watchdog_checks import NotPossible, check_removal, check_set, refuse_second_change
from compute_agent.contract.models import ActionKind, Observation, PowerState

LOG = logging.getLogger(__name__)


class TooManyOpen(Exception):
    """The server's host has as many open actions as it may; some of them have to end first."""


class IdempotencyKeyReused(Exception):
    """The same key came with another content before."""


Refusal = Refused | NotPossible | AgentTooOld | TooManyOpen | IdempotencyKeyReused
REFUSALS = (Refused, NotPossible, AgentTooOld, TooManyOpen, IdempotencyKeyReused)
"""What :func:`accept_action` says no with; the transaction is as good as before."""


@dataclass(frozen=True)
class Asked:
    """An action as it was asked for. ``id`` becomes the action's. ``passes_locks``: an admin asks. ``force``: also while an earlier crash
    dump may still be running. ``arguments``: what its kind's request has beyond those of all kinds."""

    id: str
    kind: ActionKind
    project: str
    user: str
    deadline: timedelta
    force: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    passes_locks: bool = False
    idempotency_key: str | None = None
    global_request_id: str | None = None


@dataclass(frozen=True)
class Terms:
    """What the gateway lets be taken on.

    :param holdoff: how long after a crash dump's signal the dump may still be running
    :param max_open: how many open actions a host may have with the new one; None: as many as come
    """

    holdoff: timedelta
    max_open: int | None = None
    speech: Speech = field(default_factory=Speech)


@dataclass(frozen=True)
class Accepted:
    """The action, and whether this request made it (False: an earlier one with the same idempotency key did)."""

    action: ActionRow
    new: bool


_Earlier = Callable[[Connection, Subject, Asked, Circumstances], None]


@dataclass(frozen=True)
class _Kind:
    """What differs by kind: what the server's own state says to it, what its host told of its devices, what an earlier action says to it,
    and which part of a host's room for open actions it may take."""

    server_checks: ServerChecks
    check_earlier: _Earlier = lambda *_: None
    check_devices: Callable[[ServerRow, AgentRow | None, Mapping[str, Any]], None] | None = None
    share: float = 1.0


def accept_action(c: Connection, server: ServerRow, asked: Asked, *, now: datetime, terms: Terms) -> Accepted:
    """Insert the action; the caller commits before it answers.

    :raises Refused: the server's state or an earlier action forbids it.
    :raises NotPossible: the server can never have what is asked for.
    :raises AgentTooOld: the agent of its host, or the pin, does not take it.
    :raises TooManyOpen: its host has enough to do.
    :raises IdempotencyKeyReused: see there.
    """

    def check_devices() -> None:
        check = _KINDS[asked.kind].check_devices
        if check is not None:
            check(server, agents.find_agent(c, server.host), asked.arguments)

    return _accept(c, server, asked, AskedFor(c, server, now, terms.holdoff), now, terms, check_devices)


def accept_actions(c: Connection, wanted: Sequence[tuple[Prospect, Asked]], *, now: datetime, terms: Terms) -> list[Accepted | Refusal]:
    """The same for crash dumps of several servers that do not stand still, none of them twice: with one statement for all of them, which
    is the transaction's last.

    :returns: for each what :func:`accept_action` would return or raise.
    """
    circumstances = ReadAhead([prospect for prospect, _ in wanted])
    outcomes: list[Accepted | Refusal] = []
    for prospect, asked in wanted:
        try:
            outcomes.append(_accept(c, prospect, asked, circumstances, now, terms))
        except REFUSALS as refusal:
            outcomes.append(refusal)
    actions.insert_new_and_commit(c, circumstances.rows)
    return outcomes


def _accept(
    c: Connection,
    server: Subject,
    asked: Asked,
    circumstances: Circumstances,
    now: datetime,
    terms: Terms,
    check_devices: Callable[[], None] = lambda: None,
) -> Accepted:
    if asked.idempotency_key is not None:
        earlier = actions.find_by_idempotency_key(c, server.id, asked.project, asked.user, asked.idempotency_key)
        if earlier is not None:
            return _repeat(earlier, asked)
    kind = _KINDS[asked.kind]
    kind.server_checks.check(server, passes_locks=asked.passes_locks)
    speaker = circumstances.find_speaker(server.host)
    if speaker is not None:  # else it has not been heard of since its host was forgotten; the action waits for it until its deadline
        terms.speech.refuse_unless_taken(asked.kind, speaker, c)
    check_devices()
    kind.check_earlier(c, server, asked, circumstances)
    if terms.max_open is not None:
        _check_room(server, max(int(terms.max_open * kind.share), 1), circumstances)
    row = ActionRow(
        id=asked.id,
        kind=asked.kind,
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
        arguments=asked.arguments,
        idempotency_key=asked.idempotency_key,
        global_request_id=asked.global_request_id,
    )
    circumstances.insert(row)
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


def _repeat(earlier: ActionRow, asked: Asked) -> Accepted:
    same = earlier.deadline - earlier.accepted_at == asked.deadline and earlier.force == asked.force
    if not same or earlier.kind != asked.kind or earlier.arguments != asked.arguments:
        raise IdempotencyKeyReused(f"This idempotency key was used for action {earlier.id}, which asked for something else.")
    return Accepted(earlier, new=False)


def _check_room(server: Subject, most: int, circumstances: Circumstances) -> None:
    if circumstances.count_open(server.host) >= most:
        raise TooManyOpen(f"The host of instance {server.id} has {most} open actions already, as many as it may; try again later.")


def _refuse_while_dumping(_c: Connection, server: Subject, asked: Asked, circumstances: Circumstances) -> None:
    if asked.force:
        return
    blocking = circumstances.find_blocking(server.id)
    if blocking is not None:
        raise _still_dumping(ActionKind.TRIGGER_CRASH_DUMP, blocking)


def _refuse_unless_dead(_c: Connection, server: Subject, asked: Asked, circumstances: Circumstances) -> None:
    """A guest that panicked, and whose processors the hypervisor stopped for it, writes no dump of its own: its memory may be read."""
    if asked.force:
        return
    blocking = circumstances.find_blocking(server.id)
    if blocking is None:
        return
    is_dead = server.power_state == PowerState.CRASHED or blocking.observation == Observation.GUEST_PANICKED
    if blocking.state != ActionState.ENDED or not is_dead:
        raise _still_dumping(ActionKind.TAKE_HOST_DUMP, blocking)


def _still_dumping(kind: ActionKind, blocking: ActionRow) -> Refused:
    return Refused(
        f"Cannot '{kind}' instance {blocking.server}: crash_dump_in_progress, an earlier crash dump, action {blocking.id}, "
        "may still be running. A guest that is writing its dump looks as if nothing happened; do not trigger again."
    )


def _refuse_while_changing(c: Connection, server: Subject, _asked: Asked, _circumstances: Circumstances) -> None:
    refuse_second_change(c, server)


_KINDS: dict[ActionKind, _Kind] = {
    ActionKind.TRIGGER_CRASH_DUMP: _Kind(CRASH_DUMP, _refuse_while_dumping),
    ActionKind.TAKE_HOST_DUMP: _Kind(HOST_DUMP, _refuse_unless_dead),
    # Readings of a whole fleet must leave room for a crash dump.
    ActionKind.COLLECT_DIAGNOSTICS: _Kind(DIAGNOSTICS, share=0.5),
    # A crash dump's hold-off keeps none of these off: a guest that hangs in its dump is what a watchdog is for.
    ActionKind.SET_WATCHDOG: _Kind(SET_WATCHDOG, _refuse_while_changing, check_set),
    ActionKind.REMOVE_WATCHDOG: _Kind(REMOVE_WATCHDOG, _refuse_while_changing, check_removal),
    ActionKind.RESUME: _Kind(RESUME),
    # Those of a whole fleet leave room for a crash dump, and find room beside a fleet's readings: who is not fed in time is reset.
    ActionKind.RESET_WATCHDOG_TIMER: _Kind(RESET_WATCHDOG_TIMER, share=0.75),
}
