"""Notifications to put into order, and what is told of them as short texts."""

from collections.abc import Iterable
from typing import Any

from compute_agent.consumer import Disbelieved, Event, Gap, Notification, Unreadable
from compute_agent.contract.notifications import encode


def make_event(sequence: int, epoch: str = "a", event_type: str = "test.counted", **payload: Any) -> Notification:
    """The event at one place of a journal: the same at each call."""
    place = {"host": f"host-{epoch}", "epoch": epoch, "sequence": sequence}
    return Notification(f"{epoch}-{sequence}", event_type, "test", "info", "2026-01-01 00:00:00.000000", place | payload)


def make_loss(sequence: int, lost_epoch: str, first: int, last: int, epoch: str = "gateway") -> Notification:
    return make_event(sequence, epoch, "events.lost", lost_epoch=lost_epoch, first=first, last=last, reason="purged")


def make_body(sequence: int, epoch: str = "a") -> bytes:
    return encode(make_event(sequence, epoch))


def shorten(told: Iterable[Event | Gap | Unreadable | Disbelieved]) -> list[str]:
    """``a5``, ``a5 late``, ``a5-7 missing``."""
    return [_shorten_one(one) for one in told]


def _shorten_one(one: Event | Gap | Unreadable | Disbelieved) -> str:
    if isinstance(one, Unreadable):
        return "unreadable"
    if isinstance(one, Disbelieved):
        return "disbelieved"
    if isinstance(one, Gap):
        return f"{one.epoch}{one.first}-{one.last} {one.state}"
    payload = one.notification.payload
    return f"{payload['epoch']}{payload['sequence']}{' late' if one.late else ''}"
