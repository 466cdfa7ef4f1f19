"""Actions: what was asked for, and how it went. State only moves forward; endings follow the rules of the architecture page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from compute_agent.contract.errors import Code, Ending


class ActionState(StrEnum):
    """How far an action has come."""

    ACCEPTED = "accepted"
    RECEIVED = "received"
    STARTED = "started"
    ENDED = "ended"


class Applied(StrEnum):
    """What became of an agent's report."""

    CHANGED = "changed"
    """The row is another one now."""
    UNCHANGED = "unchanged"
    """Known already, or overtaken by something later."""
    MADE = "made"
    """There was no row (asked for at an agent directly); ``action.received`` made it. Events of it that were recorded earlier are to be
    applied now: ``events.list_events_of_action``."""
    NO_ACTION = "no_action"
    """There is no row and this event cannot make one; it is applied when ``action.received`` comes (see MADE)."""
    FOREIGN = "foreign"
    """Another host than the action's own reported it: ignored and counted (``violations.foreign_host``)."""
    VIOLATION = "violation"
    """A second, different ending or final observation: ignored and counted (``violations.second_ending``, ``…_observation``)."""


@dataclass(frozen=True)
class ActionRow:
    """One action. Words that an agent may extend (code, observation, …) are text as they came.

    ``cast_count`` counts casts that were begun, ``unroutable_count`` those of them that the broker returned: while both are equal nothing
    was delivered. ``ending_epoch`` is the journal that an agent's ending came from. ``recorded_at`` is when the gateway learned of (or
    wrote) the ending; ``updated_at`` when the row last changed, set from the start.
    """

    id: str
    kind: str
    server: str
    server_generation: int
    host: str
    project: str | None
    user: str | None
    state: str
    accepted_at: datetime
    deadline: datetime
    updated_at: datetime
    force: bool = False
    idempotency_key: str | None = None
    global_request_id: str | None = None
    journal_id: str | None = None
    cast_incarnation: int | None = None
    cast_count: int = 0
    unroutable_count: int = 0
    last_cast_at: datetime | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    received_at: datetime | None = None
    started_at: datetime | None = None
    signalled_at: datetime | None = None
    ended_at: datetime | None = None
    ending: str | None = None
    code: str | None = None
    reason: str | None = None
    decided_by: str | None = None
    ending_epoch: str | None = None
    revised_at: datetime | None = None
    observation: str | None = None
    observation_final: bool = False
    observed_at: datetime | None = None
    observation_text: str | None = None
    recorded_at: datetime | None = None

    @property
    def perhaps_delivered(self) -> bool:
        """Whether any cast may have reached the agent."""
        raise NotImplementedError


def insert_action(c: Connection, row: ActionRow) -> None:
    """:raises StoreRejected: the id, or (server, project, user, idempotency_key), exists already (raised at the block's end at the latest)."""
    raise NotImplementedError


def find_action(c: Connection, action_id: str) -> ActionRow | None:
    raise NotImplementedError


def get_action(c: Connection, action_id: str) -> ActionRow:
    """:raises LookupError: there is none."""
    raise NotImplementedError


def find_by_idempotency_key(c: Connection, server: str, project: str | None, user: str | None, key: str) -> ActionRow | None:
    raise NotImplementedError


def list_actions_of_server(
    c: Connection,
    server: str,
    *,
    limit: int | None = None,
    marker: str | None = None,
    changes_since: datetime | None = None,
    changes_before: datetime | None = None,
) -> list[ActionRow]:
    """Newest first. ``marker`` is the id of the last action of the page before; bounds are inclusive, on ``updated_at``.

    :raises LookupError: the marker is no action of this server.
    """
    raise NotImplementedError


def find_blocking_crash_dump(c: Connection, server: str, *, now: datetime, holdoff: timedelta) -> ActionRow | None:
    """The earliest crash dump that forbids another one now: one that has not ended, or one that was (perhaps) sent within ``holdoff`` and
    after which the server was not seen to reboot or stop."""
    raise NotImplementedError


def claim_castable(
    c: Connection, *, owner: str, now: datetime, lease: timedelta, limit: int, received_timeout: timedelta
) -> list[ActionRow]:
    """Lease up to ``limit`` actions to cast now, at most one per host, none of a host of which one is leased already.

    Castable: ``accepted``, deadline not passed, and never cast, or the agent's incarnation differs from that of the last cast, or
    ``received_timeout`` has passed since it. A lease that ran out is free again.
    """
    raise NotImplementedError


def find_next_cast_at(c: Connection, *, now: datetime, received_timeout: timedelta) -> datetime | None:
    """When the next recast of an ``accepted`` action falls due (``now`` if one is due); None when nothing waits. How long to sleep."""
    raise NotImplementedError


def record_cast(c: Connection, action_id: str, *, owner: str, at: datetime, journal_id: str | None, incarnation: int | None) -> ActionRow | None:
    """Count a cast that is about to be tried; commit before trying it. The first one binds the action to ``journal_id``.

    :returns: the row to cast as it is now (with the journal that it is bound to), or None when it must not be cast any more: it was
        reported or ended, its deadline passed, or ``owner`` lost the lease.
    """
    raise NotImplementedError


def record_unroutable(c: Connection, action_id: str) -> None:
    """The broker returned the cast that :func:`record_cast` counted last: nothing was delivered."""
    raise NotImplementedError


def release_lease(c: Connection, action_id: str, owner: str) -> bool:
    """:returns: False when ``owner`` did not hold it any more."""
    raise NotImplementedError


def list_past_deadline(c: Connection, *, now: datetime, limit: int) -> list[ActionRow]:
    """Open actions whose deadline lies before ``now``, earliest first."""
    raise NotImplementedError


def end_by_gateway(c: Connection, action_id: str, *, ending: Ending, code: Code, reason: str, at: datetime) -> bool:
    """End an open action and append its ``action.ended`` (decided_by gateway) to the outbox, both in this transaction.

    Anything but ``unknown`` is refused once a cast was perhaps delivered or the agent reported: then only the agent may say so.

    :returns: False when it has ended already or the rule above forbids it.
    """
    raise NotImplementedError


def apply_received(
    c: Connection,
    action_id: str,
    *,
    kind: str,
    server: str,
    host: str,
    epoch: str,
    project: str | None,
    user: str | None,
    deadline: datetime,
    at: datetime,
    now: datetime,
) -> Applied:
    """``action.received``: the agent has it in its journal. Makes the row when the gateway never accepted this action."""
    raise NotImplementedError


def apply_started(c: Connection, action_id: str, *, host: str, at: datetime, now: datetime) -> Applied:
    """``action.started``."""
    raise NotImplementedError


def apply_ended(
    c: Connection,
    action_id: str,
    *,
    host: str,
    epoch: str,
    ending: str,
    code: str,
    reason: str,
    at: datetime,
    now: datetime,
    started_at: datetime | None = None,
    signalled_at: datetime | None = None,
) -> Applied:
    """``action.ended`` of an agent. Replaces a gateway's ``unknown`` exactly once and appends ``action.revised`` to the outbox; any other
    second, different ending leaves the first one."""
    raise NotImplementedError


def apply_observed(
    c: Connection, action_id: str, *, host: str, observation: str, final: bool, observed_at: datetime, text: str, now: datetime
) -> Applied:
    """``action.observed``. A final one is never replaced; of others the later one holds."""
    raise NotImplementedError


def count_open(c: Connection, *, host: str | None = None) -> int:
    """Actions that have not ended."""
    raise NotImplementedError


ALL_STATES: Sequence[ActionState] = tuple(ActionState)
