"""The known servers' states in the journal: what one event, or one comparison, makes of them, and the ``server.*`` events that tell it."""

import logging
from datetime import datetime

from compute_agent.causes import Cause, find_cause
from compute_agent.contract.models import STANDS_STILL, Departure, PowerState, Server
from compute_agent.drivers.models import DriverEvent, DriverEventKind, DriverServer
from compute_agent.firings import Firings
from compute_agent.journal import JournalTransaction
from compute_agent.looks import Look
from compute_agent.observations import (
    CRASHES,
    ENDS_HOLDOFF,
    EVENT_TYPE_OF_KIND,
    KIND_FOUND,
    Crash,
    find_event_type,
    find_state_after,
    is_seen_in_state,
)
from compute_agent.survey import StateChange, Survey, describe, find_arrival
from compute_agent.watch import Watch

LOG = logging.getLogger(__name__)

_NO_CAUSE = Cause()


class ServerStates:
    """Writes in the caller's transaction. One thread uses it.

    ``crashes``: those of guests that were told since the list was cleared.

    :param host: for the log
    :param default_project: owner of servers whose metadata name none
    """

    def __init__(self, host: str, firings: Firings, watch: Watch, *, default_project: str) -> None:
        self._host = host
        self._firings = firings
        self._watch = watch
        self._default_project = default_project
        self.crashes: list[Crash] = []

    # One event

    def remove(self, transaction: JournalTransaction, event: DriverEvent, before: Server | None, look: Look) -> None:
        """An event told that it left."""
        if before is None:
            return
        is_migrated = event.kind is DriverEventKind.MIGRATED_AWAY
        if not is_migrated and (not look.answered or (look.seen is not None and not look.seen.persistent)):
            return  # not known, or it lost its definition only and runs on until it stops
        departure = Departure.MIGRATED if is_migrated else Departure.UNDEFINED
        transaction.remove_known_server(before.id, departure, event.occurred_at)
        LOG.info("server %s left host %s: %s", before.id, self._host, departure)
        if look.seen is not None and not is_migrated:
            self.add(transaction, event, look.seen)  # defined again meanwhile: another life of the same UUID

    def add(self, transaction: JournalTransaction, event: DriverEvent, seen: DriverServer | None, cause: Cause = _NO_CAUSE) -> None:
        """An event of a server that is not known here: it arrives with it, if it is this host's."""
        server = None
        if seen is not None:
            server = find_arrival(transaction, seen, at=event.occurred_at, default_project=self._default_project)
        if server is None:
            LOG.debug("event %s of server %s, which is not on host %s", event.kind, event.server, self._host)
            return
        transaction.put_known_server(server)
        LOG.info("server %s is new on host %s: %s, generation %d", server.id, self._host, server.power_state, server.generation)
        if event.kind in EVENT_TYPE_OF_KIND:
            self._append_state(transaction, event, server, cause)

    def change(
        self, transaction: JournalTransaction, event: DriverEvent, before: Server, seen: DriverServer | None, cause: Cause = _NO_CAUSE
    ) -> None:
        """An event of a known server; ``seen`` is how it is now, if somebody looked."""
        after = before
        if seen is not None:
            after = describe(
                seen,
                generation=before.generation,
                created_at=before.created_at,
                state_at=before.state_at,
                default_project=self._default_project,
            )
        if event.kind not in EVENT_TYPE_OF_KIND:
            transaction.put_known_server(after.model_copy(update={"power_state": before.power_state, "state_reason": before.state_reason}))
            return
        state = find_state_after(event, before.power_state)
        is_old = event.occurred_at < before.state_at
        if is_old and state is before.power_state and is_seen_in_state(event):
            return  # a comparison of states has told it already
        update = {"power_state": state, "state_reason": event.reason, "state_at": event.occurred_at}
        if event.kind is DriverEventKind.STOPPED:
            update["started_at"] = None
        after = after.model_copy(update=update)
        if not is_old:
            _discount_pause(transaction, before, event.occurred_at)
            transaction.put_known_server(after)
        self._append_state(transaction, event, after, cause)
        if event.kind in ENDS_HOLDOFF:
            transaction.clear_signal(after.id, event.occurred_at)

    # After a gap

    def apply(self, transaction: JournalTransaction, survey: Survey, at: datetime) -> None:
        """What a comparison found."""
        for server in (*survey.arrived, *survey.altered):
            transaction.put_known_server(server)
        for server in survey.arrived:
            LOG.info("server %s is new on host %s: %s, generation %d", server.id, self._host, server.power_state, server.generation)
        for change in survey.changed:
            self._append_late(transaction, change, at)
            transaction.put_known_server(change.after)
            reset_at = change.find_reset(at)
            if reset_at is None:
                _discount_pause(transaction, change.before, at)
            if reset_at is not None:
                transaction.clear_signal(change.after.id, reset_at)
        for server in survey.gone:
            transaction.remove_known_server(server.id, Departure.GONE, at)
            LOG.info("server %s left host %s unseen", server.id, self._host)

    # What the above need

    def find_cause(self, transaction: JournalTransaction, server: str, kind: DriverEventKind, at: datetime) -> Cause:
        """What may have led to such an event."""
        explanation = self._firings.find_explanation(transaction, server, kind)
        return find_cause(transaction, server, kind, at, explanation=explanation, limit=self._watch.limit)

    def _append_state(self, transaction: JournalTransaction, event: DriverEvent, after: Server, cause: Cause) -> None:
        body = {
            "power_state": after.power_state,
            "reason": event.reason,
            "observed_late": self._watch.is_late(event),
            "action_id": cause.action_id,
            "fired_event": cause.fired_event,
        }
        transaction.append_event(EVENT_TYPE_OF_KIND[event.kind], server=after.id, occurred_at=event.occurred_at, body=body)
        self._note_crash(EVENT_TYPE_OF_KIND[event.kind], after.id, event.occurred_at, cause.action_id)
        LOG.info(
            "server %s on host %s: %s (%s), now %s, action %s, watchdog %s",
            *(after.id, self._host, event.kind, event.reason, after.power_state),
            *(cause.action_id or "none", cause.fired_event or "none"),
        )

    def _append_late(self, transaction: JournalTransaction, change: StateChange, at: datetime) -> None:
        before, after = change.before.power_state, change.after.power_state
        event_type = find_event_type(before, after, change.restarted)
        reset_at = change.find_reset(at)
        occurred_at = reset_at if reset_at is not None and after is PowerState.RUNNING else at
        kind = KIND_FOUND.get(after) if reset_at is None else DriverEventKind.STOPPED
        cause = _NO_CAUSE if kind is None else self.find_cause(transaction, change.after.id, kind, reset_at or at)
        body = {
            "power_state": after,
            "reason": change.after.state_reason or f"found {after}",
            "observed_late": True,
            "action_id": cause.action_id,
            "fired_event": cause.fired_event,
        }
        transaction.append_event(event_type, server=change.after.id, occurred_at=occurred_at, body=body)
        self._note_crash(event_type, change.after.id, occurred_at, cause.action_id)
        LOG.info(
            "server %s on host %s: found %s, was %s, nobody saw it change, action %s, watchdog %s",
            *(change.after.id, self._host, after, before, cause.action_id or "none", cause.fired_event or "none"),
        )

    def _note_crash(self, event_type: str, server: str, at: datetime, action_id: str | None) -> None:
        if event_type in CRASHES:
            self.crashes.append(Crash(server, event_type, at, action_id))


def find_here(transaction: JournalTransaction, server: str) -> Server | None:
    """A server that this host has, as last committed."""
    entry = transaction.find_known_server(server)
    return None if entry is None or entry.removed_at is not None else entry.server


def _discount_pause(transaction: JournalTransaction, before: Server, until: datetime) -> None:
    if before.power_state in STANDS_STILL:
        transaction.discount_pause(before.id, before.state_at, until)
