"""What can be read and changed in one transaction of the journal: actions and hold-off here, the rest in its bases.

Every method that changes an action's state appends its event here, in the same transaction, so that no caller can forget it.
"""

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from compute_agent.contract.errors import Ending
from compute_agent.contract.models import STANDS_STILL, ActionKind, ActionRequest, ActionResult, DecidedBy, Observation
from compute_agent.contract.topics import Severity
from compute_agent.journal_firings import FiringStatements
from compute_agent.journal_outbox import OutboxStatements
from compute_agent.journal_rows import ActionState, JournalledAction, Signal, SignalCause, read_request, to_stored
from compute_agent.journal_servers import ServerStatements

_SEVERITY_OF_ENDING = {
    Ending.SUCCEEDED: Severity.INFO,
    Ending.FAILED: Severity.WARN,
    Ending.EXPIRED: Severity.WARN,
    Ending.UNKNOWN: Severity.ERROR,
}

_CLEARED = (
    "(cleared_at IS NOT NULL AND CASE WHEN cleared_monotonic IS NULL THEN cleared_at >= at"
    " ELSE cleared_monotonic >= monotonic_at - 0.001 END)"
)
"""Of a signal: the server was seen to reboot or stop after it, by the monotonic clock where both moments are of one run of the machine (and
with a millisecond for reading two clocks one after the other). A reboot *before* it went out, during a slow call, say, clears nothing."""


class JournalTransaction(FiringStatements, OutboxStatements, ServerStatements):
    """Everything that can be read or changed in one transaction. Valid only inside its ``with`` block."""

    # Actions

    def find_action(self, action_id: str) -> JournalledAction | None:
        row = self.execute("SELECT * FROM actions WHERE id = ?", action_id).fetchone()
        return None if row is None else JournalledAction.read(row, self._origin.incarnation)

    def get_action(self, action_id: str) -> JournalledAction:
        """:raises KeyError: there is none."""
        action = self.find_action(action_id)
        if action is None:
            raise KeyError(action_id)
        return action

    def list_actions(self, state: ActionState | None = None, server: str | None = None) -> list[JournalledAction]:
        """In the order of receipt."""
        rows = self.execute(
            "SELECT * FROM actions WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR server = ?2) ORDER BY position", state, server
        )
        return [JournalledAction.read(row, self._origin.incarnation) for row in rows]

    def list_awaiting_observation(self, server: str | None = None) -> list[JournalledAction]:
        """Crash dumps whose signal was or perhaps was sent (those still ``started`` too) and that have no final observation yet."""
        rows = self.execute(
            "SELECT * FROM actions WHERE observation_final = 0 AND kind = 'trigger_crash_dump' AND (?1 IS NULL OR server = ?1) AND"
            " (state = 'started' OR (state = 'ended' AND ending IN ('succeeded', 'unknown'))) ORDER BY position",
            server,
        )
        return [JournalledAction.read(row, self._origin.incarnation) for row in rows]

    def is_watching(self) -> bool:
        """Whether there is an action of :meth:`list_awaiting_observation` or a firing without an outcome."""
        (found,) = self.execute(
            "SELECT EXISTS (SELECT 1 FROM firings WHERE concluded_at IS NULL) OR EXISTS (SELECT 1 FROM actions WHERE observation_final = 0"
            " AND kind = 'trigger_crash_dump' AND (state = 'started' OR (state = 'ended' AND ending IN ('succeeded', 'unknown'))))"
        ).fetchone()
        return bool(found)

    def list_awaiting_time(self, *, silent_since: datetime, watched_since: datetime) -> list[JournalledAction]:
        """Those of :meth:`list_awaiting_observation` that have ended, of which the passing of time may say something: begun or signalled (a
        clock may be set back in between) before ``silent_since``, and before ``watched_since`` where something was seen already. And all
        whose NMI waits: the time counts from when their server resumes."""
        rows = self.execute(
            "SELECT * FROM actions WHERE observation_final = 0 AND kind = 'trigger_crash_dump' AND state = 'ended'"
            " AND ending IN ('succeeded', 'unknown') AND (observation IS ?1 OR min(coalesce(started_at, ended_at, received_at),"
            " coalesce(signalled_at, started_at, ended_at, received_at)) <= CASE WHEN observation IS NULL THEN ?2 ELSE ?3 END)"
            " ORDER BY position",
            Observation.PENDING_UNTIL_RESUME,
            to_stored(max(silent_since, watched_since)),
            to_stored(watched_since),
        )
        return [JournalledAction.read(row, self._origin.incarnation) for row in rows]

    def find_state(self, action_id: str) -> ActionState | None:
        """How far an action came, without reading the rest of it."""
        row = self.execute("SELECT state FROM actions WHERE id = ?", action_id).fetchone()
        return None if row is None else ActionState(row["state"])

    def add_action(self, request: ActionRequest, received_at: datetime) -> None:
        """Journal a new action as ``received``, with its ``action.received`` event; its monotonic countdown begins here.

        :raises sqlite3.IntegrityError: the id is known; look first.
        """
        self.execute(
            "INSERT INTO actions (id, server, kind, state, request, deadline, received_at, incarnation, monotonic_limit)"
            " VALUES (?, ?, ?, 'received', ?, ?, ?, ?, ?)",
            request.id,
            request.server,
            request.kind,
            json.dumps(request.to_wire()),
            to_stored(request.deadline),
            to_stored(received_at),
            self._origin.incarnation,
            self._count_down(request, received_at),
        )
        body = {
            "action_id": request.id,
            "kind": request.kind,
            "project": request.project,
            "user": request.user,
            "global_request_id": request.global_request_id,
            "deadline": request.deadline,
        }
        self.append_event("action.received", server=request.server, occurred_at=received_at, body=body)

    def restart_countdown(self, action_id: str, at: datetime) -> None:
        """Give a ``received`` action of an earlier incarnation a countdown on this incarnation's monotonic clock."""
        limit = self._count_down(self._get_request(action_id), at)
        self.execute("UPDATE actions SET incarnation = ?, monotonic_limit = ? WHERE id = ?", self._origin.incarnation, limit, action_id)

    def start_action(self, action_id: str, at: datetime) -> bool:
        """received -> started, with its event and a crash dump's signal record; False when it was not ``received`` (any more).

        Only after this transaction is committed may the driver be called, once, by whoever got True.
        """
        changed = self.execute(
            "UPDATE actions SET state = 'started', started_at = ? WHERE id = ? AND state = 'received'", to_stored(at), action_id
        ).rowcount
        if not changed:
            return False
        request = self._get_request(action_id)
        self._add_signal(request, at)
        body = {"action_id": request.id, "kind": request.kind}
        self.append_event("action.started", server=request.server, occurred_at=at, body=body)
        return True

    def return_action(self, action_id: str, at: datetime) -> None:
        """started -> received, for a repeatable action of an earlier incarnation: it is begun anew, with a countdown of this one's.

        It keeps when it was started: what was done of it then nobody knows.
        """
        self.execute("UPDATE actions SET state = 'received' WHERE id = ? AND state = 'started'", action_id)
        self.restart_countdown(action_id, at)

    def end_action(
        self, action_id: str, result: ActionResult, at: datetime, signalled_at: datetime | None = None
    ) -> JournalledAction | None:
        """received | started -> ended, with the ``action.ended`` event; returns the action as it is then, None when it had ended already
        (nothing is changed then).

        After an ending that says that nothing was sent, the signal record and an observation recorded meanwhile go away. After any
        other the hold-off counts from ``signalled_at`` if known, and an observation recorded meanwhile follows the ending.
        """
        before = self.find_action(action_id)
        if before is None or before.state is ActionState.ENDED:
            return None
        self.execute(
            "UPDATE actions SET state = 'ended', ended_at = ?, age = ?, signalled_at = ?, ending = ?, code = ?, reason = ? WHERE id = ?",
            to_stored(at),
            self._origin.age.count(),
            None if signalled_at is None else to_stored(signalled_at),
            result.ending,
            result.code,
            result.reason,
            action_id,
        )
        self.end_watchdog_change(action_id)
        body = {
            "action_id": action_id,
            "kind": before.request.kind,
            "project": before.request.project,
            "user": before.request.user,
            "global_request_id": before.request.global_request_id,
            **result.model_dump(),
            "decided_by": DecidedBy.AGENT,
            "started_at": before.started_at,
            "signalled_at": signalled_at,
        }
        self.append_event(
            "action.ended", server=before.request.server, occurred_at=at, body=body, severity=_SEVERITY_OF_ENDING[result.ending]
        )
        after = replace(before, state=ActionState.ENDED, ended_at=at, signalled_at=signalled_at, result=result)
        if not after.perhaps_sent:
            self.execute("DELETE FROM signals WHERE action_id = ?", action_id)
            self.execute(
                "UPDATE actions SET observation = NULL, observation_final = 0, observed_at = NULL, observation_text = NULL WHERE id = ?",
                action_id,
            )
            return replace(after, observation=None, observation_final=False, observed_at=None, observation_text=None)
        if before.state is ActionState.RECEIVED:
            self._add_signal(before.request, at)
        elif signalled_at is not None:
            self.record_signal_time(action_id, signalled_at)
        if after.observation is not None:
            self._append_observed(after)
        return after

    def record_signal_time(self, action_id: str, at: datetime) -> None:
        """The signal of this action may have gone out as late as ``at``: the hold-off counts from there."""
        self.execute(
            "UPDATE signals SET at = ?2, monotonic_at = ?3, boot = ?4, age = ?5,"
            " cleared_monotonic = CASE WHEN boot = ?4 THEN cleared_monotonic END"
            " WHERE action_id = ?1 AND CASE WHEN boot = ?4 THEN monotonic_at < ?3 ELSE at < ?2 END",
            action_id,
            to_stored(at),
            *self.locate(at),
            self._origin.age.count(),
        )

    def observe(self, action_id: str, observation: Observation, at: datetime, final: bool, text: str) -> bool:
        """Record what was seen of the guest; False when it adds nothing: after a final one, the same again, or nothing was sent.

        The event is appended now if the action has ended, otherwise with its ending.
        """
        before = self.get_action(action_id)
        if not before.perhaps_sent or before.observation_final or (before.observation, before.observation_final) == (observation, final):
            return False
        self.execute(
            "UPDATE actions SET observation = ?, observation_final = ?, observed_at = ?, observation_text = ? WHERE id = ?",
            observation,
            int(final),
            to_stored(at),
            text,
            action_id,
        )
        if before.state is ActionState.ENDED:
            self._append_observed(self.get_action(action_id))
        return True

    # Hold-off

    def find_signal(self, server: str, cause: SignalCause | None = None) -> Signal | None:
        """The latest crash dump signal of a server, cleared or not; of anybody, or only of ``cause``."""
        row = self.execute(
            f"SELECT *, {_CLEARED} AS cleared FROM signals WHERE server = ?1 AND (?2 IS NULL OR cause = ?2)"  # noqa: S608 # the text above
            " ORDER BY at DESC, position DESC LIMIT 1",
            server,
            cause,
        ).fetchone()
        return None if row is None else Signal.read(row)

    def list_uncleared_signals(self, server: str) -> list[Signal]:
        """The crash dump signals of a server after which nobody saw it reboot or stop, those last that were recorded first."""
        rows = self.execute(
            f"SELECT *, 0 AS cleared FROM signals WHERE server = ? AND NOT {_CLEARED} ORDER BY position DESC",  # noqa: S608 # the text above
            server,
        )
        return [Signal.read(row) for row in rows]

    def clear_signal(self, server: str, at: datetime) -> None:
        """The server rebooted or stopped at ``at``: signals sent before that hold nothing off any more."""
        self.execute(
            "UPDATE signals SET cleared_at = max(coalesce(cleared_at, 0), ?2),"
            " cleared_monotonic = CASE WHEN boot = ?4 THEN max(coalesce(cleared_monotonic, ?3), ?3) END WHERE server = ?1",
            server,
            to_stored(at),
            *self.locate(at),
        )

    def discount_pause(self, server: str, since: datetime, until: datetime) -> None:
        """The server stood still from ``since`` to ``until``, and so did any dump: its hold-off goes on from where it was then."""
        self.execute(
            "UPDATE signals SET at = at + max(0, ?3 - max(?2, at)), age = ?5,"  # noqa: S608 # the text above
            # Not past the end of the pause, which the wall clock may have been set forward in.
            " monotonic_at = max(monotonic_at, min(monotonic_at + max(0, ?3 - max(?2, at)) / 1e6, ?4))"
            f" WHERE server = ?1 AND NOT {_CLEARED}",
            server,
            to_stored(since),
            to_stored(until),
            self.locate(until)[0],
            self._origin.age.count(),
        )

    # Pruning, and what the above need

    def prune(
        self, now: datetime, *, outbox_keep: timedelta, outbox_max_rows: int, action_keep: timedelta, except_for: Collection[str] = ()
    ) -> int:
        """Forget what nobody can ask for any more; returns the number of rows.

        Sent events go after ``outbox_keep``, or when more than ``outbox_max_rows`` of them are kept; unsent ones never. Actions go
        ``action_keep`` after their deadline and their ending, with what was kept to send their ending again. All of it by both clocks:
        after the wall clock was set weeks forward, an action of a minute ago is still known, and its NMI holds the next one off.

        :param except_for: actions that are kept with their signals: the call of one that has ended may still come back
        """
        self.keep_age()
        self.keep_sent()
        age = self._origin.age.count()
        old = (to_stored(now - action_keep), age - action_keep.total_seconds())
        kept = json.dumps(sorted(except_for))
        count = self.execute(
            "DELETE FROM actions WHERE state = 'ended' AND deadline < ? AND age < ? AND id NOT IN (SELECT value FROM json_each(?))",
            *old,
            kept,
        ).rowcount
        # A dump that stands still with its server goes on when that resumes, however long ago it began.
        marks = ", ".join("?" * len(STANDS_STILL))
        count += self.execute(
            "DELETE FROM signals WHERE at < ? AND age < ? AND action_id NOT IN"  # noqa: S608 # marks only
            " (SELECT value FROM json_each(?)) AND server NOT IN"
            f" (SELECT id FROM servers WHERE removed_at IS NULL AND json_extract(server, '$.power_state') IN ({marks}))",
            *old,
            kept,
            *STANDS_STILL,
        ).rowcount
        count += self.execute("DELETE FROM firings WHERE concluded_at < ? AND age < ?", *old).rowcount
        removable = (
            "sent_at IS NOT NULL AND (action_id IS NULL OR event_type NOT IN ('action.ended', 'action.observed')"
            " OR NOT EXISTS (SELECT 1 FROM actions WHERE actions.id = outbox.action_id))"
        )
        count += self.execute(
            f"DELETE FROM outbox WHERE {removable} AND sent_at < ? AND age < ?",  # noqa: S608 # the text above
            to_stored(now - outbox_keep),
            age - outbox_keep.total_seconds(),
        ).rowcount
        count += self.execute(
            f"DELETE FROM outbox WHERE sequence IN"  # noqa: S608 # the text above
            f" (SELECT sequence FROM outbox WHERE {removable} ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
            outbox_max_rows,
        ).rowcount
        return count

    def _get_request(self, action_id: str) -> ActionRequest:
        """What was asked, without reading how far it came."""
        return read_request(self.execute("SELECT request FROM actions WHERE id = ?", action_id).fetchone()["request"])

    def _count_down(self, request: ActionRequest, at: datetime) -> float:
        return self._origin.clock.monotonic() + (request.deadline - at).total_seconds()

    def _add_signal(self, request: ActionRequest, at: datetime) -> None:
        if request.kind is not ActionKind.TRIGGER_CRASH_DUMP:
            return
        self.add_signal(request.server, request.id, at, SignalCause.ACTION)

    def _append_observed(self, action: JournalledAction) -> None:
        assert action.observed_at is not None  # narrows the type: every observation has its time
        body = {
            "action_id": action.request.id,
            "kind": action.request.kind,
            "observation": action.observation,
            "final": action.observation_final,
            "observed_at": action.observed_at,
            "text": action.observation_text,
        }
        self.append_event("action.observed", server=action.request.server, occurred_at=action.observed_at, body=body)
