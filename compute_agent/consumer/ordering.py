"""Each event once, in the order of its journal, and what is missing of it named. Pure: no clock, no thread, no connection.

An agent writes its events into a journal (``epoch``) under numbers without holes (``sequence``), and tells them at least once; between
different journals there is no order. So an event that comes before its predecessor is held back until that comes. What does not come in
``patience`` seconds, or is waited for by too many, is told as a :class:`Gap`, and what was held back follows.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard

from compute_agent.consumer.ranges import Ranges
from compute_agent.consumer.seen import Seen
from compute_agent.contract.notifications import Notification

LOST = "events.lost"
_LONGEST_EPOCH = 255
_LARGEST_SEQUENCE = 2**63 - 1


@dataclass(frozen=True)
class Event:
    """One event, given for the first and only time.

    ``late``: a later one of its journal was given before it, or it is older than the first that was seen of its journal. Where a gap was
    told, a late event closes its own place in it. ``sender``: the account that published it, which RabbitMQ has checked; None where it is
    not known.
    """

    notification: Notification
    late: bool = False
    sender: str | None = None


class GapState(StrEnum):
    """What is known of events that did not come."""

    MISSING = "missing"
    """They may come yet: the gateway asks agents for what it misses, and then all consumers get it."""
    LOST = "lost"
    """``events.lost`` said that they are gone."""


@dataclass(frozen=True)
class Gap:
    """The events ``first`` to ``last`` of a journal have not come. Told as missing first, and once more when they are said to be lost."""

    epoch: str
    host: str
    first: int
    last: int
    state: GapState
    reason: str | None = None

    def __str__(self) -> str:
        count = self.last - self.first + 1
        journal = f"journal {self.epoch} of host {self.host}"
        if self.state is GapState.LOST:
            return f"{_count_events(count)} of {journal} {'is' if count == 1 else 'are'} lost after {self.first - 1}: {self.reason}"
        return f"{_count_events(count)} of {journal} {'is' if count == 1 else 'are'} missing after {self.first - 1}"


Told = Event | Gap
Key = tuple[str, int] | str
"""What an event is known by: its place, or its message id where it has none."""


@dataclass(frozen=True)
class _Unseen:
    """Why a sequence below the next one has not been given. ``state`` None: it is older than what was seen first, so nothing was told."""

    state: GapState | None


@dataclass
class _Journal:
    """What is known of one epoch. ``next`` is the sequence that is given next without being late."""

    host: str
    next: int
    unseen: Ranges[_Unseen]
    lost: Ranges[str]
    held: dict[int, tuple[Event, float]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    @property
    def waits_since(self) -> float:
        return min(at for _, at in self.held.values())


class UnusableState(Exception):
    """What :meth:`Ordering.save` is said to have made is not like that; the text says where."""


class Ordering:
    """Orders and sorts out the notifications of any number of journals.

    Memory is bounded: of each journal the ranges that did not come are remembered (1000 at most; what comes of forgotten ones later is
    taken for a repetition), of journals the ``max_journals`` last heard of, of events without a place the last 100,000 ids.

    :param patience: seconds that an event is held back at most while an earlier one is missing
    :param max_held: events that are held back at most, of all journals together
    :param saved: from :meth:`save`: goes on where an earlier one stopped
    :raises UnusableState: ``saved`` is not what :meth:`save` made.
    """

    def __init__(
        self,
        *,
        patience: float = 10.0,
        max_held: int = 1000,
        max_journals: int = 50_000,
        max_ranges: int = 1000,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.max_held = max_held
        self._patience = patience
        self._max_journals = max_journals
        self._max_ranges = max_ranges
        self._journals: OrderedDict[str, _Journal] = OrderedDict()
        self._waiting: dict[str, _Journal] = {}
        self._held_count = 0
        self._without_place = Seen()
        if saved is not None:
            self._load(saved)

    def take(self, notification: Notification, now: float, *, sender: str | None = None) -> list[Told]:
        """What is to be told now that this has come: nothing (it is known, or held back), itself, and what had waited for it.

        :param now: seconds of any clock that does not go back
        :param sender: the account that published it (AMQP ``user_id``), for :attr:`Event.sender`
        """
        told: list[Told] = []
        place = find_place(notification)
        if place is None:
            if self._without_place.add(notification.message_id):
                told.append(Event(notification, sender=sender))
            return self._explain(told, told)
        journal = self._find_journal(*place, notification)
        epoch, sequence = place
        if sequence < journal.next:
            if journal.unseen.take(sequence, sequence):
                told.append(Event(notification, late=True, sender=sender))
        elif sequence not in journal.held:
            journal.held[sequence] = Event(notification, sender=sender), now
            self._held_count += 1
            heapq.heappush(journal.order, sequence)
            self._waiting[epoch] = journal
            told += self._advance(epoch, journal)
        self._explain(told, told)
        while self._held_count > self.max_held:
            self._give_up_one(told)
        return told

    def expire(self, now: float) -> list[Told]:
        """What has been held back for ``patience`` seconds, with the gaps before it. To be called about once a second."""
        told: list[Told] = []
        while any(now - journal.waits_since >= self._patience for journal in self._waiting.values()):
            self._give_up_one(told)
        return told

    def give_up(self) -> list[Told]:
        """All that is held back, with the gaps before it: at the end, when nothing more will come."""
        told: list[Told] = []
        while self._waiting:
            self._give_up_one(told)
        return told

    def is_held(self, notification: Notification) -> bool:
        """Whether this, or the same come earlier, is held back."""
        place = find_place(notification)
        return place is not None and place[0] in self._waiting and place[1] in self._waiting[place[0]].held

    def save(self, untold: Iterable[Notification] = ()) -> dict[str, Any]:
        """What has been given, as plain JSON, for a consumer that must not do anything twice after its own restart. What is held back is
        not in it: it has not been acknowledged and comes again.

        :param untold: what was given here and got no further: it will be given again, as late
        """
        saved: dict[str, Any] = {
            epoch: {
                "host": journal.host,
                "next": journal.next,
                "unseen": [[one.first, one.last, one.word.state] for one in journal.unseen],
                "lost": [[one.first, one.last, one.word] for one in journal.lost],
            }
            for epoch, journal in self._journals.items()
        }
        for place in map(find_place, untold):
            if place is not None and place[0] in saved:
                saved[place[0]]["unseen"].append([place[1], place[1], None])
        return saved

    def _load(self, saved: Mapping[str, Any]) -> None:
        try:
            for epoch, state in saved.items():
                journal = self._make_journal(str(state["host"]), int(state["next"]))
                for first, last, word in state["unseen"]:
                    journal.unseen.put(int(first), int(last), _Unseen(None if word is None else GapState(word)))
                for first, last, reason in state["lost"]:
                    journal.lost.put(int(first), int(last), str(reason))
                self._journals[epoch] = journal
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnusableState(f"not the state of an ordering: {error!r}") from error

    def _make_journal(self, host: str, first: int) -> _Journal:
        return _Journal(host, first, Ranges(self._max_ranges), Ranges(self._max_ranges))

    def _find_journal(self, epoch: str, sequence: int, notification: Notification) -> _Journal:
        journal = self._journals.get(epoch)
        if journal is None:
            if len(self._journals) >= self._max_journals:
                self._forget_one()
            journal = self._journals[epoch] = self._make_journal(_find_text(notification.payload, "host"), sequence)
            journal.unseen.put(1, sequence - 1, _Unseen(None))
        self._journals.move_to_end(epoch)
        return journal

    def _forget_one(self) -> None:
        """The journal that was heard of longest ago, unless something of it is held back."""
        oldest = next((epoch for epoch in self._journals if epoch not in self._waiting), None)
        if oldest is not None:
            del self._journals[oldest]

    def _advance(self, epoch: str, journal: _Journal) -> Iterator[Told]:
        """Give what is held back and waits for nothing any more, or only for what is said to be lost."""
        while journal.order:
            begin, end = journal.next, journal.order[0] - 1
            if begin <= end and sum(one.last - one.first + 1 for one in journal.lost.list_within(begin, end)) <= end - begin:
                return
            yield from self._skip(epoch, journal)
            event, _ = journal.held.pop(heapq.heappop(journal.order))
            journal.next += 1
            self._held_count -= 1
            yield event
        self._waiting.pop(epoch, None)

    def _skip(self, epoch: str, journal: _Journal) -> Iterator[Gap]:
        """Go on at the first one that is held back, and tell what lies before it as a gap."""
        begin, end = journal.next, journal.order[0] - 1
        if begin > end:
            return
        journal.next = end + 1
        for lost in journal.lost.take(begin, end):
            yield from self._tell_gap(epoch, journal, begin, lost.first - 1, GapState.MISSING)
            yield from self._tell_gap(epoch, journal, lost.first, lost.last, GapState.LOST, lost.word)
            begin = lost.last + 1
        yield from self._tell_gap(epoch, journal, begin, end, GapState.MISSING)

    def _tell_gap(self, epoch: str, journal: _Journal, first: int, last: int, state: GapState, reason: str | None = None) -> Iterator[Gap]:
        if first <= last:
            journal.unseen.put(first, last, _Unseen(state))
            yield Gap(epoch, journal.host, first, last, state, reason)

    def _give_up_one(self, told: list[Told]) -> None:
        """Tell the first gap of the journal that has waited longest."""
        epoch, journal = min(self._waiting.items(), key=lambda item: item[1].waits_since)
        new: list[Told] = [*self._skip(epoch, journal), *self._advance(epoch, journal)]
        told += new
        self._explain(new, told)

    def _explain(self, new: Iterable[Told], told: list[Told]) -> list[Told]:
        """Apply each ``events.lost`` among what is ``new``; what follows from it is told behind."""
        left = deque(one for one in new if _is_about_loss(one))
        while left:
            one = left.popleft()
            assert isinstance(one, Event)
            more = list(self._apply_loss(one.notification.payload))
            left += [event for event in more if _is_about_loss(event)]
            told += more
        return told

    def _apply_loss(self, payload: dict[str, Any]) -> Iterator[Told]:
        epoch, first, last = payload.get("lost_epoch"), payload.get("first"), payload.get("last")
        journal = self._journals.get(epoch) if isinstance(epoch, str) else None
        if journal is None or not _is_sequence(first) or not _is_sequence(last):
            return  # nothing of that journal was seen: what was lost before is not missed
        assert isinstance(epoch, str)
        reason = _find_text(payload, "reason")
        journal.lost.put(first, last, reason)
        for one in journal.unseen.list_within(first, last):
            if one.word.state is GapState.MISSING:
                yield from self._tell_gap(epoch, journal, one.first, one.last, GapState.LOST, reason)
        yield from self._advance(epoch, journal)


def find_place(notification: Notification) -> tuple[str, int] | None:
    """Epoch and sequence; None for what has no place in any order."""
    epoch, sequence = notification.payload.get("epoch"), notification.payload.get("sequence")
    if not isinstance(epoch, str) or not 0 < len(epoch) <= _LONGEST_EPOCH or not _is_sequence(sequence):
        return None
    return epoch, sequence


def find_key(notification: Notification) -> Key:
    return find_place(notification) or notification.message_id


def _is_sequence(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_SEQUENCE


def _is_about_loss(told: Told) -> bool:
    return isinstance(told, Event) and told.notification.event_type == LOST


def _find_text(payload: Mapping[str, Any], key: str) -> str:
    value = payload.get(key)
    return value if isinstance(value, str) else "?"


def _count_events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
