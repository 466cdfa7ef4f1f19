"""What agents report of actions, in any order and any number of times: state only moves forward, and an ending stays what it is.

The one exception: an agent's ending replaces a gateway's ``unknown``, exactly once.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, update

from api_gateway.store import counters, outbox
from api_gateway.store.actions import ActionRow, ActionState, find_action_locked, insert_action, list_actions_locked
from api_gateway.store.had import has_had
from api_gateway.store.restoring import is_forgotten
from api_gateway.store.server_rows import find_server
from api_gateway.store.tables import actions
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import DecidedBy

_LONGEST_UNASKED = timedelta(days=1)
"""How long an action that this gateway did not accept may be open."""


_REPORTED = (
    "state",
    "updated_at",
    "received_at",
    "started_at",
    "signalled_at",
    "ended_at",
    "ending",
    "code",
    "reason",
    "decided_by",
    "ending_epoch",
    "revised_at",
    "observation",
    "observation_final",
    "observed_at",
    "observation_text",
    "recorded_at",
)
"""The columns that reports change."""
_WRITE = update(actions).where(actions.c.id == bindparam("reported_action")).values({name: bindparam(name) for name in _REPORTED})


class ReportedActions:
    """Actions while reports of them are applied, most of which have several in a batch: each row is read once, changed in memory in the
    order of the reports, and written once."""

    def __init__(self, c: Connection, action_ids: Collection[str]) -> None:
        self.connection = c
        self._rows: dict[str, ActionRow | None] = dict.fromkeys(action_ids)
        self._rows |= {row.id: row for row in list_actions_locked(c, action_ids)}
        self._changed: set[str] = set()

    def find(self, action_id: str) -> ActionRow | None:
        """As the reports so far have left it."""
        if action_id not in self._rows:
            self._rows[action_id] = find_action_locked(self.connection, action_id)
        return self._rows[action_id]

    def insert(self, row: ActionRow) -> None:
        insert_action(self.connection, row)
        self._rows[row.id] = row

    def change(self, row: ActionRow, changes: dict[str, Any]) -> None:
        self._rows[row.id] = replace(row, **changes)
        self._changed.add(row.id)

    def write(self) -> None:
        changed = [row for row in self._rows.values() if row is not None and row.id in self._changed]
        if changed:
            values = [{"reported_action": row.id, **{name: getattr(row, name) for name in _REPORTED}} for row in changed]
            self.connection.execute(_WRITE, values)


@contextmanager
def reported_actions(c: Connection, action_ids: Collection[str] = ()) -> Iterator[ReportedActions]:
    """What the functions below apply reports to; written at the end of the block.

    :param action_ids: those that are known to be reported of, to be read at once
    """
    reported = ReportedActions(c, action_ids)
    yield reported
    reported.write()


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
    reported: ReportedActions,
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
    row = reported.find(action_id)
    if row is None:
        c = reported.connection
        owned = find_server(c, server)
        is_foreign = owned is not None and owned.host != host and not has_had(c, host, server, at, now)
        if is_foreign and not is_forgotten(c, at, now=now):
            return _refuse_foreign(reported)
        reported.insert(
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
        return _refuse_foreign(reported)
    changes: dict[str, Any] = {}
    if row.received_at is None:
        changes["received_at"] = at
    if row.state == ActionState.ACCEPTED:
        changes["state"] = ActionState.RECEIVED
    return _change_if_any(reported, row, changes, now)


def apply_started(reported: ReportedActions, action_id: str, *, host: str, at: datetime, now: datetime) -> Applied:
    """``action.started``."""
    row = reported.find(action_id)
    if row is None:
        return Applied.NO_ACTION
    if row.host != host:
        return _refuse_foreign(reported)
    changes: dict[str, Any] = {}
    if row.started_at is None:
        changes["started_at"] = at
    if row.state in (ActionState.ACCEPTED, ActionState.RECEIVED):
        changes["state"] = ActionState.STARTED
    return _change_if_any(reported, row, changes, now)


def apply_ended(
    reported: ReportedActions,
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
    row = reported.find(action_id)
    if row is None:
        return Applied.NO_ACTION
    if row.host != host:
        return _refuse_foreign(reported)
    given_up = row.decided_by == DecidedBy.GATEWAY and row.ending == Ending.UNKNOWN
    if row.state == ActionState.ENDED and not given_up:
        if (row.ending, row.code) == (ending, code):
            return Applied.UNCHANGED
        # A lost journal's agent may come to another ending than the one out of the first journal: the first stays, and nobody is to blame.
        if row.decided_by == DecidedBy.AGENT and row.ending_epoch != epoch:
            return Applied.UNCHANGED
        counters.count_violation(reported.connection, "second_ending")
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
        _append_revision(reported.connection, row, ending=ending, code=code, reason=reason, at=now)
    reported.change(row, changes)
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
    reported: ReportedActions,
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
    row = reported.find(action_id)
    if row is None:
        return Applied.NO_ACTION
    if row.host != host:
        return _refuse_foreign(reported)
    # The agent of a lost journal watches what it must call unknown, also when the first journal had told the outcome already.
    foreign_journal = row.decided_by == DecidedBy.AGENT and row.ending_epoch != epoch
    if foreign_journal or row.ending in (Ending.FAILED, Ending.EXPIRED):
        return Applied.UNCHANGED
    if row.observation_final:
        # Out of the journal that took its place, the first one's word perhaps came before any ending: that stays, and nobody is to blame.
        if final and row.observation != observation and row.journal_id in (None, epoch):
            counters.count_violation(reported.connection, "second_observation")
            return Applied.VIOLATION
        return Applied.UNCHANGED
    if not final and row.observed_at is not None and observed_at <= row.observed_at:
        return Applied.UNCHANGED
    changes = {"observation": observation, "observation_final": final, "observed_at": observed_at, "observation_text": text}
    return _change_if_any(reported, row, changes, now)


def _change_if_any(reported: ReportedActions, row: ActionRow, changes: dict[str, Any], now: datetime) -> Applied:
    if not changes:
        return Applied.UNCHANGED
    reported.change(row, {**changes, "updated_at": now})
    return Applied.CHANGED


def _refuse_foreign(reported: ReportedActions) -> Applied:
    """A broken agent harms its own host only. A hostile one could name another host: the recorder compares that with the account that the
    broker vouches for (see ``senders``)."""
    counters.count_violation(reported.connection, "foreign_host")
    return Applied.FOREIGN
