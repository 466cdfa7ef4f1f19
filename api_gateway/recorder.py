"""Notifications become the record: each event once, in order, applied in the transaction that records it.

Pure steps over batches of messages; who reads them from a queue and acknowledges after the step is ``consumer``. A step
either has recorded its whole batch when it returns, or raises and has to be given the same messages again, which is harmless.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from pydantic import ValidationError

from api_gateway.applying import apply_events
from api_gateway.cast_slots import CastSlots
from api_gateway.echo import ECHO_TYPE, find_said_at
from api_gateway.received import Received
from api_gateway.senders import SenderCheck
from api_gateway.shelf import DeadLetter, Shelf, ShelfLimits
from api_gateway.store import Store, StoreBusy, StoreUnavailable, counters
from api_gateway.store import events as stored_events
from api_gateway.store import hearing as stored_hearing
from api_gateway.store import heartbeats as stored_heartbeats
from api_gateway.summary import Summary
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import Heartbeat
from compute_agent.contract.notifications import (
    HEARTBEAT_TYPE,
    RECORDER_QUEUES,
    Notification,
    UnreadableNotification,
    decode,
)
from compute_agent.contract.rpcapi import ActionCaster

LOG = logging.getLogger(__name__)

_Item = TypeVar("_Item")

_FORGED = "forged_sender"
_SHELF = ShelfLimits()
_LONGEST_BODY = 4 * 2**20
"""Bytes. No agent has as much to say, and a statement with more may be none that the database takes: MariaDB hangs up on it, as if it were
away, and the recorder would wait for it for good."""
_HEARTBEATS_AT_ONCE = 20
"""In one transaction at most: after the broker was away each brings a whole inventory, which takes ten times as long as an event, and
requests wait to write meanwhile."""


class _ForgedSender(Exception):
    """Somebody spoke for another one; the text says who for whom."""


class Recorder:
    """The gateway's ears.

    :param slots: where ``report_inventory`` is cast from; without a free one the next heartbeat asks again
    :param senders: holds each message against the account that sent it; None: every account is believed
    :param shelf: how much the dead-letter shelf takes
    :param on_agent_restarted: called after a commit that saw an agent with a new incarnation: its actions are cast again
    """

    def __init__(
        self,
        store: Store,
        caster: ActionCaster,
        clock: Clock,
        *,
        slots: CastSlots,
        senders: SenderCheck | None = None,
        shelf: ShelfLimits = _SHELF,
        on_agent_restarted: Callable[[], object] = lambda: None,
    ) -> None:
        self._store = store
        self._caster = caster
        self._clock = clock
        self._slots = slots
        self._senders = senders
        self._on_agent_restarted = on_agent_restarted
        self._summary = Summary(clock)
        self._shelf = Shelf(shelf, clock, self._summary)

    def record(self, messages: Sequence[Received], source: str = RECORDER_QUEUES[0].name) -> None:
        """Record a batch of events in its order; what cannot be read or stored goes to the dead-letter shelf.

        :param source: the queue that they came from
        :raises StoreBusy, StoreUnavailable: a part may be recorded; give the same batch again.
        """
        self._summary.tell()
        self._in_halves(
            messages,
            lambda batch: self._record_together(batch, source),
            lambda message, why: self._record_unapplied(message, why, source),
        )

    def _record_together(self, messages: Sequence[Received], source: str, *, apply: bool = True) -> None:
        now = self._clock.now()
        with self._store.write() as c:
            readable: list[Notification] = []
            dead: list[DeadLetter] = []
            for message in messages:
                try:
                    readable.append(self._read(message))
                except UnreadableNotification as error:
                    dead.append(DeadLetter(message.body, str(error), source))
                except _ForgedSender as error:
                    counters.count_violation(c, _FORGED)
                    dead.append(DeadLetter(message.body, str(error), source))
            self._shelf.put(c, dead, now=now)
            recorded = stored_events.record_events(c, readable, now=now)
            if apply:
                apply_events(c, recorded, store_id=self._store.store_id, now=now)

    def _read(self, message: Received) -> Notification:
        """:raises UnreadableNotification: it is none, or too long.
        :raises _ForgedSender: its account has no say in this.
        """
        if len(message.body) > _LONGEST_BODY:
            raise UnreadableNotification(f"{len(message.body)} bytes are more than a message may have")
        notification = decode(message.body)
        objection = None if self._senders is None else self._senders.find_objection(notification, message.user)
        if objection is not None:
            # As long and on as many lines as a stranger pleases: not in the log, nor on the shelf.
            raise _ForgedSender(f"{notification.event_type!r:.200}: {objection:.400}")
        return notification

    def _record_unapplied(self, message: Received, why: str, source: str) -> None:
        """Keep in the record what cannot be applied, and on the shelf what cannot even be recorded."""
        self._in_halves(
            [message],
            lambda batch: self._record_together(batch, source, apply=False),
            lambda message, why_unrecorded: self._shelve(message, f"{why}; then {why_unrecorded}", source),
        )

    def _shelve(self, message: Received, why: str, source: str) -> None:
        with self._store.write() as c:
            self._shelf.put(c, [DeadLetter(message.body, why, source)], now=self._clock.now())

    def record_heartbeats(self, messages: Sequence[Received]) -> None:
        """Take heartbeats and our own echoes in, in any order; what cannot be read is dropped, the next one comes soon.

        :raises StoreBusy, StoreUnavailable: give the same batch again.
        """
        self._summary.tell()
        heartbeats: list[Heartbeat] = []
        said_at: list[datetime] = []
        for notification in self._list_believable(messages):
            if notification.event_type == ECHO_TYPE:
                moment = find_said_at(notification, store_id=self._store.store_id, now=self._clock.now())
                said_at += [] if moment is None else [moment]
            elif (heartbeat := self._find_heartbeat(notification)) is not None:
                heartbeats.append(heartbeat)
        for start in range(0, len(heartbeats), _HEARTBEATS_AT_ONCE):
            self._in_halves(
                heartbeats[start : start + _HEARTBEATS_AT_ONCE],
                self._apply_heartbeats,
                lambda heartbeat, why: self._drop(
                    "not taken in", f"host {heartbeat.host}, number {heartbeat.number}: {why}", logging.ERROR
                ),
            )
        if said_at:
            self._note_heard(max(said_at))

    def _list_believable(self, messages: Sequence[Received]) -> list[Notification]:
        """Those that can be read and whose sender may say this; the others are dropped and said."""
        believable: list[Notification] = []
        forged = 0
        for message in messages:
            try:
                believable.append(self._read(message))
            except UnreadableNotification as error:
                self._drop("unreadable", str(error))
            except _ForgedSender as error:
                forged += 1
                self._drop("forged", str(error), logging.ERROR)
        if forged:
            with self._store.write() as c:
                counters.count_violation(c, _FORGED, forged)
        return believable

    def _apply_heartbeats(self, heartbeats: Sequence[Heartbeat]) -> None:
        hosts_to_ask: dict[str, None] = {}
        restarted = False
        with self._store.write() as c:
            taken = stored_heartbeats.apply_heartbeats(c, heartbeats, self._clock.now())
            for heartbeat, outcome in zip(heartbeats, taken.outcomes, strict=True):
                restarted = restarted or outcome.restarted
                if outcome.needs_full:
                    hosts_to_ask[heartbeat.host] = None
                elif not outcome.stale:
                    hosts_to_ask.pop(heartbeat.host, None)  # a later one of the batch brought it
                if outcome.restarted or outcome.came_up or outcome.went_down:
                    LOG.info(
                        "host %s: agent %s %s (release %s, journal %s, incarnation %d)",
                        heartbeat.host,
                        heartbeat.capabilities.driver,
                        "stops" if outcome.went_down else "is up",
                        heartbeat.release,
                        heartbeat.journal_id,
                        heartbeat.incarnation,
                    )
            for claimed in taken.claimed_twice:
                LOG.error("server %s is claimed by two hosts, %s and %s", claimed.server, claimed.host, claimed.other_host)
        if restarted:
            self._on_agent_restarted()
        for host in hosts_to_ask:
            if self._slots.count_free() > 0:
                self._slots.start(partial(self._ask_for_inventory, host))

    def _note_heard(self, said_at: datetime) -> None:
        """After what came before the echo is in the store, never earlier."""
        with self._store.write() as c:
            stored_hearing.note_heard(c, said_at, now=self._clock.now())

    def _ask_for_inventory(self, host: str) -> None:
        try:
            self._caster.report_inventory(host)
        except Exception as error:  # noqa: BLE001 -- a cast may raise anything; the next heartbeat asks again
            LOG.warning("host %s could not be asked for its inventory: %r", host, error)

    def _find_heartbeat(self, notification: Notification) -> Heartbeat | None:
        if notification.event_type != HEARTBEAT_TYPE:
            self._drop("no heartbeats", repr(notification.event_type))
            return None
        try:
            return Heartbeat.from_wire(notification.payload)
        except ValidationError as error:
            self._drop("unreadable", str(error))
            return None

    def _drop(self, as_what: str, example: str, level: int = logging.WARNING) -> None:
        self._summary.note(f"heartbeats dropped as {as_what}", example, level=level)

    def _in_halves(self, batch: Sequence[_Item], step: Callable[[Sequence[_Item]], None], give_up: Callable[[_Item, str], None]) -> None:
        """Run ``step`` over the batch; where it fails over what is in there, over its halves, in order, down to the one bad item.

        :raises StoreBusy, StoreUnavailable: that is nobody's fault and everybody's turn again.
        """
        if not batch:
            return
        try:
            step(batch)
        except (StoreBusy, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 -- a message that we cannot take must never stop those behind it, whatever the reason is
            if len(batch) > 1:
                middle = len(batch) // 2
                self._in_halves(batch[:middle], step, give_up)
                self._in_halves(batch[middle:], step, give_up)
            else:
                self._summary.note("messages that cannot be taken in", repr(error), level=logging.ERROR, error=error)
                give_up(batch[0], repr(error))
