"""What a recorded event changes: one function from its type to the rows that it is about.

Reads tolerantly: an agent may be a release ahead, so words are taken as text, unknown keys are ignored, and an event that says
less than its type needs stays in the record without being applied. Every application may be repeated.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from api_gateway.store import Connection
from api_gateway.store import diagnostics as stored_diagnostics
from api_gateway.store import events as stored_events
from api_gateway.store import gaps as stored_gaps
from api_gateway.store import had as stored_had
from api_gateway.store import reports as stored_reports
from api_gateway.store import servers as stored_servers
from api_gateway.store.events import EventRow
from api_gateway.store.reports import Applied, ReportedActions
from api_gateway.store.servers import StateReport
from compute_agent.contract.diagnostics import DiagnosticsReport
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import OPEN_END
from compute_agent.contract.watchdogs import Watchdog

LOG = logging.getLogger(__name__)


class Unreadable(ValueError):
    """The payload does not say what its type needs; the text names the key."""


class _Fields:
    """A payload's values by the type that is needed.

    :raises Unreadable: from each method, when the value is missing or of another type.
    """

    def __init__(self, payload: dict[str, Any]) -> None:
        self._payload = payload

    def text(self, key: str) -> str:
        value = self._payload.get(key)
        if not isinstance(value, str):
            raise Unreadable(f"{key} is {value!r}, not text")
        return value

    def find_text(self, key: str) -> str | None:
        return None if self._payload.get(key) is None else self.text(key)

    def time(self, key: str) -> datetime:
        text = self.text(key)
        try:
            moment = datetime.fromisoformat(text)
            universal = None if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"{key} is {text!r}, not a time") from error
        if universal is None:
            raise Unreadable(f"{key} is {text!r}, a time without a zone")
        return universal

    def find_time(self, key: str) -> datetime | None:
        return None if self._payload.get(key) is None else self.time(key)

    def flag(self, key: str) -> bool:
        value = self._payload.get(key)
        if not isinstance(value, bool):
            raise Unreadable(f"{key} is {value!r}, neither true nor false")
        return value

    def object(self, key: str) -> dict[str, Any]:
        value = self._payload.get(key)
        if not isinstance(value, dict):
            raise Unreadable(f"{key} is {value!r}, not an object")
        return value

    def number(self, key: str) -> int:
        value = self._payload.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unreadable(f"{key} is {value!r}, not a whole number")
        return value


@dataclass(frozen=True)
class _Batch:
    """What the events of one transaction are applied to, and when."""

    c: Connection
    actions: ReportedActions
    store_id: str
    now: datetime
    states: dict[str, StateReport] = field(default_factory=dict)
    """Of each server the state that was told last and is not applied yet: those of many cost as many statements as that of one."""

    def put_state(self, report: StateReport) -> None:
        if report.server in self.states:
            self.apply_states()
        self.states[report.server] = report

    def apply_states(self) -> None:
        """To be called before anything looks at servers."""
        stored_servers.apply_states(self.c, list(self.states.values()), now=self.now)
        self.states.clear()


def apply_events(c: Connection, events: Sequence[EventRow], *, store_id: str, now: datetime) -> None:
    """Apply newly recorded events, in their order, in the transaction that recorded them.

    :param store_id: the epoch of the gateway's own events: what they say was written before they were published
    :raises StoreRejected: the store refused a value; others of the store's errors pass as well.
    """
    action_ids = {event.action_id for event in events if event.action_id is not None and event.event_type in _APPLY}
    with stored_reports.reported_actions(c, action_ids) as actions:
        batch = _Batch(c, actions, store_id, now)
        for event in events:
            _apply_event(batch, event)
        batch.apply_states()


def _apply_event(batch: _Batch, event: EventRow) -> None:
    apply = _APPLY.get(event.event_type)
    if event.epoch == batch.store_id or _is_hidden(batch, event) or apply is None:
        return
    if event.host is None or event.epoch is None:
        LOG.warning("event %s %s names no host or no epoch: recorded, not applied", event.message_id, event.event_type)
        return
    try:
        applied = apply(batch, event, _Fields(event.payload))
    except Unreadable as error:
        LOG.warning("event %s %s of host %s: recorded, not applied: %s", event.message_id, event.event_type, event.host, error)
        return
    if applied is Applied.MADE and event.action_id is not None:
        for earlier in stored_events.list_events_of_action(batch.c, event.action_id):
            if earlier.position != event.position:
                _apply_event(batch, earlier)
    elif applied in (Applied.FOREIGN, Applied.VIOLATION):
        LOG.error(
            "event %s %s of host %s on action %s ignored: %s", event.message_id, event.event_type, event.host, event.action_id, applied
        )
    elif applied is Applied.CHANGED and event.event_type in ("action.ended", "action.observed"):
        word = event.payload.get("ending", event.payload.get("observation"))
        LOG.info("action %s server %s host %s %s: %s", event.action_id, event.server, event.host, event.event_type, word)


def _is_hidden(batch: _Batch, event: EventRow) -> bool:
    """Whether a host tells of a server that another one owns and that it did not have then. What it tells of actions is held against the
    action's own host."""
    if event.project is not None or event.server is None or event.host is None:
        return False
    batch.apply_states()
    if not stored_had.is_foreign(batch.c, event.host, event.server, occurred_at=event.occurred_at, recorded_at=event.recorded_at):
        return False
    LOG.warning(
        "event %s %s of host %s is about server %s of another host: recorded, not applied, shown to admins only",
        event.message_id,
        event.event_type,
        event.host,
        event.server,
    )
    return not event.event_type.startswith("action.")


def _apply_received(batch: _Batch, event: EventRow, fields: _Fields) -> Applied:
    assert event.host is not None
    assert event.epoch is not None
    action_id = fields.text("action_id")
    if batch.actions.find(action_id) is None:
        batch.apply_states()  # whose the server is decides on the row that is made
    return stored_reports.apply_received(
        batch.actions,
        action_id,
        kind=fields.text("kind"),
        server=fields.text("server"),
        host=event.host,
        epoch=event.epoch,
        project=fields.find_text("project"),
        user=fields.find_text("user"),
        deadline=fields.time("deadline"),
        at=fields.time("occurred_at"),
        now=batch.now,
    )


def _apply_started(batch: _Batch, event: EventRow, fields: _Fields) -> Applied:
    assert event.host is not None
    return stored_reports.apply_started(
        batch.actions, fields.text("action_id"), host=event.host, at=fields.time("occurred_at"), now=batch.now
    )


def _apply_ended(batch: _Batch, event: EventRow, fields: _Fields) -> Applied:
    assert event.host is not None
    assert event.epoch is not None
    ending = fields.text("ending")
    if ending not in tuple(Ending):
        raise Unreadable(f"ending is {ending!r}, none of {', '.join(Ending)}")
    return stored_reports.apply_ended(
        batch.actions,
        fields.text("action_id"),
        host=event.host,
        epoch=event.epoch,
        ending=ending,
        code=fields.text("code"),
        reason=fields.text("reason"),
        at=fields.time("occurred_at"),
        now=batch.now,
        started_at=fields.find_time("started_at"),
        signalled_at=fields.find_time("signalled_at"),
    )


def _apply_observed(batch: _Batch, event: EventRow, fields: _Fields) -> Applied:
    assert event.host is not None
    assert event.epoch is not None
    return stored_reports.apply_observed(
        batch.actions,
        fields.text("action_id"),
        host=event.host,
        epoch=event.epoch,
        observation=fields.text("observation"),
        final=fields.flag("final"),
        observed_at=fields.time("observed_at"),
        text=fields.text("text"),
        now=batch.now,
    )


def _apply_server_state(batch: _Batch, event: EventRow, fields: _Fields) -> None:
    assert event.host is not None
    batch.put_state(
        StateReport(
            server=fields.text("server"),
            host=event.host,
            event_type=event.event_type,
            power_state=fields.text("power_state"),
            reason=fields.text("reason"),
            at=fields.time("occurred_at"),
        )
    )


def _apply_diagnostics(batch: _Batch, event: EventRow, fields: _Fields) -> None:
    assert event.host is not None
    try:
        report = DiagnosticsReport.from_wire(fields.object("report"))
    except ValidationError as error:
        raise Unreadable(f"report cannot be read: {error}") from error
    if report.server != fields.text("server"):
        raise Unreadable(f"report is about server {report.server}")
    batch.apply_states()
    stored_diagnostics.keep_report(batch.c, report, host=event.host, now=batch.now)


def _apply_watchdog(batch: _Batch, event: EventRow, fields: _Fields) -> None:
    assert event.host is not None
    try:
        watchdog = Watchdog.from_wire(fields.object("watchdog"))
    except ValidationError as error:
        raise Unreadable(f"watchdog cannot be read: {error}") from error
    batch.apply_states()
    stored_servers.apply_watchdog(
        batch.c, fields.text("server"), host=event.host, watchdog=watchdog.to_wire(), at=fields.time("occurred_at"), now=batch.now
    )


def _apply_lost(batch: _Batch, event: EventRow, fields: _Fields) -> None:
    assert event.host is not None
    epoch, first, last = fields.text("lost_epoch"), fields.number("first"), fields.number("last")
    missing = stored_gaps.close_gap(batch.c, host=event.host, epoch=epoch, first=first, last=last)
    if last >= OPEN_END:
        LOG.error("host %s epoch %s: whatever was told from event %d on is lost", event.host, epoch, first)
    else:
        LOG.error("host %s epoch %s: events %d to %d are lost, %d of them never came", event.host, epoch, first, last, missing)


_APPLY: dict[str, Callable[[_Batch, EventRow, _Fields], Applied | None]] = {
    "action.received": _apply_received,
    "action.started": _apply_started,
    "action.ended": _apply_ended,
    "action.observed": _apply_observed,
    "server.started": _apply_server_state,
    "server.stopped": _apply_server_state,
    "server.paused": _apply_server_state,
    "server.resumed": _apply_server_state,
    "server.suspended": _apply_server_state,
    "server.rebooted": _apply_server_state,
    "server.panicked": _apply_server_state,
    "server.crash_kernel_started": _apply_server_state,
    "server.diagnostics": _apply_diagnostics,
    "server.watchdog.changed": _apply_watchdog,
    "events.lost": _apply_lost,
}
"""Types that change rows; all others are recorded only."""
