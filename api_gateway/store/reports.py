"""What agents report of actions, in any order and any number of times: state only moves forward, and an ending stays what it is.

The one exception: an agent's ending replaces a gateway's ``unknown``, exactly once.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from api_gateway.store import counters, outbox
from api_gateway.store.actions import ActionRow, ActionState, change_action, find_action_locked, insert_action
from api_gateway.store.had import has_had
from api_gateway.store.restoring import is_forgotten
from api_gateway.store.server_rows import find_server
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import DecidedBy

_LONGEST_UNASKED = timedelta(days=1)
"""How long an action that this gateway did not accept may be open."""


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
    """``action.received``: the agent has it in its journal. Makes the row when the gateway never accepted this action.

    Not for a server that another host owns and this one did not have then: an open action forbids others, and no agent may do that to a
    foreign server. After the restoration of a backup nobody knows any more who had it; then the agent is believed for as long as it may
    have to tell again. Nor is it open for longer than a day, whatever deadline the agent tells.
    """
    row = find_action_locked(c, action_id)
    if row is None:
        owned = find_server(c, server)
        is_foreign = owned is not None and owned.host != host and not has_had(c, host, server, at, now)
        if is_foreign and not is_forgotten(c, at, now=now):
            return _refuse_foreign(c)
        insert_action(
            c,
            ActionRow(
                id=action_id,
                kind=kind,
                server=server,
                server_generation=owned.generation if owned is not None else 0,
                host=host,
                project=project,
                user=user,
                state=ActionState.RECEIVED,
                accepted_at=at,
                deadline=min(deadline, now + _LONGEST_UNASKED),
                updated_at=now,
                journal_id=epoch,
                received_at=at,
            ),
        )
        return Applied.MADE
    if row.host != host:
        return _refuse_foreign(c)
    changes: dict[str, Any] = {}
    if row.received_at is None:
        changes["received_at"] = at
    if row.state == ActionState.ACCEPTED:
        changes["state"] = ActionState.RECEIVED
    return _change_if_any(c, action_id, changes, now)


def apply_started(c: Connection, action_id: str, *, host: str, at: datetime, now: datetime) -> Applied:
    """``action.started``."""
    row = find_action_locked(c, action_id)
    if row is None:
        return Applied.NO_ACTION
    if row.host != host:
        return _refuse_foreign(c)
    changes: dict[str, Any] = {}
    if row.started_at is None:
        changes["started_at"] = at
    if row.state in (ActionState.ACCEPTED, ActionState.RECEIVED):
        changes["state"] = ActionState.STARTED
    return _change_if_any(c, action_id, changes, now)


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
    row = find_action_locked(c, action_id)
    if row is None:
        return Applied.NO_ACTION
    if row.host != host:
        return _refuse_foreign(c)
    given_up = row.decided_by == DecidedBy.GATEWAY and row.ending == Ending.UNKNOWN
    if row.state == ActionState.ENDED and not given_up:
        if (row.ending, row.code) == (ending, code):
            return Applied.UNCHANGED
        # A lost journal's agent may come to another ending than the one out of the first journal: the first stays, and nobody is to blame.
        if row.decided_by == DecidedBy.AGENT and row.ending_epoch != epoch:
            return Applied.UNCHANGED
        counters.count_violation(c, "second_ending")
        return Applied.VIOLATION
    changes: dict[str, Any] = {
        "state": ActionState.ENDED,
        "ending": ending,
        "code": code,
        "reason": reason,
        "decided_by": DecidedBy.AGENT,
        "ending_epoch": epoch,
        "ended_at": at,
        "started_at": row.started_at or started_at,
        "signalled_at": signalled_at,
        "recorded_at": now,
        "updated_at": now,
    }
    if ending in (Ending.FAILED, Ending.EXPIRED):
        # Nothing was sent: what was seen came out of the journal that took the place of this one, whose agent had to call it unknown.
        changes |= {"observation": None, "observation_final": False, "observed_at": None, "observation_text": None}
    if given_up:
        changes["revised_at"] = now
        _append_revision(c, row, ending=ending, code=code, reason=reason, at=now)
    change_action(c, action_id, changes)
    return Applied.CHANGED


def _append_revision(c: Connection, row: ActionRow, *, ending: str, code: str, reason: str, at: datetime) -> None:
    outbox.append_event(
        c,
        "action.revised",
        server=row.server,
        host=row.host,
        occurred_at=at,
        body={
            "action_id": row.id,
            "kind": row.kind,
            "ending": ending,
            "code": code,
            "reason": reason,
            "previous_ending": row.ending,
            "previous_code": row.code,
        },
    )


def apply_observed(
    c: Connection,
    action_id: str,
    *,
    host: str,
    epoch: str,
    observation: str,
    final: bool,
    observed_at: datetime,
    text: str,
    now: datetime,
) -> Applied:
    """``action.observed``. A final one is never replaced; of others the later one holds. One out of another journal than the ending's, or
    of an action of which nothing was sent, says nothing about this ending."""
    row = find_action_locked(c, action_id)
    if row is None:
        return Applied.NO_ACTION
    if row.host != host:
        return _refuse_foreign(c)
    # The agent of a lost journal watches what it must call unknown, also when the first journal had told the outcome already.
    foreign_journal = row.decided_by == DecidedBy.AGENT and row.ending_epoch != epoch
    if foreign_journal or row.ending in (Ending.FAILED, Ending.EXPIRED):
        return Applied.UNCHANGED
    if row.observation_final:
        # Out of the journal that took its place, the first one's word perhaps came before any ending: that stays, and nobody is to blame.
        if final and row.observation != observation and row.journal_id in (None, epoch):
            counters.count_violation(c, "second_observation")
            return Applied.VIOLATION
        return Applied.UNCHANGED
    if not final and row.observed_at is not None and observed_at <= row.observed_at:
        return Applied.UNCHANGED
    changes = {"observation": observation, "observation_final": final, "observed_at": observed_at, "observation_text": text}
    return _change_if_any(c, action_id, changes, now)


def _change_if_any(c: Connection, action_id: str, changes: dict[str, Any], now: datetime) -> Applied:
    if not changes:
        return Applied.UNCHANGED
    change_action(c, action_id, {**changes, "updated_at": now})
    return Applied.CHANGED


def _refuse_foreign(c: Connection) -> Applied:
    """A broken agent harms its own host only. A hostile one could name another host: the recorder compares that with the account that the
    broker vouches for (see ``senders``)."""
    counters.count_violation(c, "foreign_host")
    return Applied.FOREIGN
