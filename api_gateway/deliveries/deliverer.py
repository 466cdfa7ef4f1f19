"""Decides which delivery is tried when, and what a try means for the next one.

Each duty is a step of its own. What is tried runs in slots that are handed in, so that a target which does not answer keeps nobody else
waiting; of one subscription no two deliveries are in flight at the same time, whichever engine has it.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from api_gateway.cast_slots import CastSlots
from api_gateway.deliveries.back_off import BackOff
from api_gateway.deliveries.outcome import Message, NotDelivered, Sender
from api_gateway.native.event_view import find_shown, view_event
from api_gateway.store import Connection, Store, StoreBusy, StoreUnavailable, events, servers
from api_gateway.store import deliveries as stored_deliveries
from api_gateway.store import matching as stored_matching
from api_gateway.store.deliveries import Claim
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

_BATCH = 1000
_MATCH_ROUNDS = 10
_PRUNE_INTERVAL = timedelta(minutes=10)
_NOT_KEPT = "The event is not kept any more: it was older than [sweep] events_keep when its turn came."


class Deliverer:
    """What the role ``deliveries`` does.

    :param owner: a name that no other process has
    :param slots: where tries run
    :param senders: by the kind of target that each delivers to
    :param lease: seconds after which another engine may try what this one has begun
    :param keep: days that deliveries are kept after they were settled
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        owner: str,
        slots: CastSlots,
        senders: Mapping[str, Sender],
        back_off: BackOff,
        lease: float = 60.0,
        keep: float = 7.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._slots = slots
        self._senders = senders
        self._back_off = back_off
        self._lease = timedelta(seconds=lease)
        self._keep = timedelta(days=keep)
        self._prune_at = clock.now()
        self.is_behind = False
        """Whether the last :meth:`match` left something."""

    @property
    def duties(self) -> tuple[Callable[[], None], ...]:
        return (self.match, self.begin, self.prune)

    def step(self) -> None:
        """Every duty once.

        :raises StoreError: of the first duty that failed; those behind it were not tried.
        """
        for duty in self.duties:
            duty()

    def match(self) -> None:
        """Give recorded events to those who subscribed to them; of very many the rest follows at the next step, behind what is due."""
        self.is_behind = True
        for _ in range(_MATCH_ROUNDS):
            with self._store.read() as c:
                self.is_behind = stored_matching.is_behind(c)
            if not self.is_behind:
                return
            with self._store.write() as c:
                stored_matching.match_events(c, now=self._clock.now())

    def begin(self) -> None:
        """Begin as many of the tries that are due as there are free slots."""
        free, now = self._slots.count_free(), self._clock.now()
        if not free:
            return
        with self._store.read() as c:
            if not stored_deliveries.is_due(c, now=now):
                return
        with self._store.write() as c:
            claims = stored_deliveries.claim(c, owner=self._owner, now=now, lease=self._lease, limit=free)
        for claimed in claims:
            self._slots.start(partial(self._deliver, claimed))

    def _deliver(self, claimed: Claim) -> None:
        try:
            with self._store.read() as c:
                message = _find_message(c, claimed)
            failure = None if message is None else self._try(message)
            with self._store.write() as c:
                self._settle(c, claimed, failure, was_kept=message is not None)
        except (StoreBusy, StoreUnavailable) as error:
            LOG.warning("%s: what came of a try cannot be noted, it is repeated: %s", _name(claimed), error)

    def _try(self, message: Message) -> NotDelivered | None:
        """Why it failed; None: it did not."""
        sender = self._senders.get(message.subscription.target_kind)
        if sender is None:
            return NotDelivered(f"This gateway is not set up to deliver by {message.subscription.target_kind}.")
        try:
            sender.send(message)
        except NotDelivered as failure:
            return failure
        except Exception as error:  # the next try must come all the same, and be counted
            LOG.exception("delivery %s failed by a fault of ours", message.delivery)
            return NotDelivered(f"The gateway itself failed ({type(error).__name__}); its log says more.")
        return None

    def _settle(self, c: Connection, claimed: Claim, failure: NotDelivered | None, *, was_kept: bool) -> None:
        now = self._clock.now()
        if not was_kept:
            LOG.warning("%s is given up: %s", _name(claimed), _NOT_KEPT)
            stored_deliveries.settle_dead(c, claimed, _NOT_KEPT, now=now, tries=0)
        elif failure is None:
            if claimed.subscription.failures:
                LOG.info("subscription %s: its target works again", claimed.subscription.id)
            stored_deliveries.settle_delivered(c, claimed, now=now)
        elif failure.is_final:
            LOG.warning("%s is given up: %s", _name(claimed), failure.reason)
            stored_deliveries.settle_dead(c, claimed, failure.reason, now=now, tries=1)
        else:
            self._settle_failed(c, claimed, failure)

    def _settle_failed(self, c: Connection, claimed: Claim, failure: NotDelivered) -> None:
        now, tries = self._clock.now(), claimed.delivery.tries + 1
        wish = timedelta(seconds=failure.retry_after)
        is_last = tries >= self._back_off.max_tries
        if is_last:
            LOG.warning("%s is given up after %d tries: %s", _name(claimed), tries, failure.reason)
        elif claimed.subscription.failures == 0:
            LOG.warning("%s failed and is tried again: %s", _name(claimed), failure.reason)
        stored_deliveries.settle_failed(
            c,
            claimed,
            failure.reason,
            now=now,
            resume_at=now + max(wish, self._back_off.find_pause(claimed.subscription.failures + 1)),
            again_at=None if is_last else now + max(wish, self._back_off.find_pause(tries)),
            give_up_before=now - self._back_off.span,
        )

    def prune(self) -> None:
        """Forget what was settled long ago; every ten minutes, and at each step while there is more of it than one transaction should
        delete."""
        now = self._clock.now()
        if now < self._prune_at:
            return
        with self._store.write() as c:
            count = stored_deliveries.prune(c, settled_before=now - self._keep, limit=_BATCH)
        if count < _BATCH:
            self._prune_at = now + _PRUNE_INTERVAL


def _find_message(c: Connection, claimed: Claim) -> Message | None:
    """None: the event is not kept any more."""
    subscription, position = claimed.subscription, claimed.delivery.position
    event = events.find_event(c, str(position))
    if event is None:
        return None
    server = None if event.server is None else servers.find_server(c, event.server, include_deleted=True)
    return Message(
        subscription,
        f"{subscription.id}.{position}",
        view_event(event, find_shown(subscription.shown)),
        server.name if server is not None and server.project == event.project else None,  # somebody else's since is called what it likes
    )


def _name(claimed: Claim) -> str:
    return f"subscription {claimed.subscription.id}: the delivery of event {claimed.delivery.position}"
