"""What tests of subscriptions share: a subscription to begin with, events to be told of, and a sender that notes."""

from typing import Any

from api_gateway.deliveries.back_off import BackOff
from api_gateway.deliveries.deliverer import Deliverer
from api_gateway.deliveries.outcome import Message, NotDelivered
from api_gateway.native.event_view import find_shown
from api_gateway.store import Store, deliveries, events, subscriptions
from api_gateway.store.deliveries import DeliveryRow
from api_gateway.store.events import EventRow
from api_gateway.store.subscriptions import SubscriptionRow
from compute_agent.contract.notifications import Notification
from tests.fakes import Counter, FakeClock
from tests.unit.gateway.engine_parts import HeldCasts
from tests.unit.gateway.store_parts import build_event

MOST = 100
_ids = Counter("event")


class NotingSender:
    """Notes what it is given, and raises ``failure`` if there is one. Implements Sender."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.failure: Exception | None = None

    def send(self, message: Message) -> None:
        self.messages.append(message)
        if self.failure is not None:
            raise self.failure

    @property
    def positions(self) -> list[int]:
        return [message.event["position"] for message in self.messages]


def subscribe(store: Store, clock: FakeClock, key: str = "s-1", **changes: Any) -> SubscriptionRow:
    """To every event of everybody, unless ``changes`` say otherwise."""
    values: dict[str, Any] = {
        "id": key,
        "project": None,
        "user": "admin",
        "types": (),
        "severity": "info",
        "server": None,
        "target_kind": "webhook",
        "target": "https://hooks.example/events",
        "created_at": clock.now(),
        "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "shown": tuple(find_shown(())),
    }
    with store.write() as c:
        return subscriptions.insert_subscription(c, SubscriptionRow(**(values | changes)), most=MOST)


def record(store: Store, clock: FakeClock, *wanted: Notification) -> list[EventRow]:
    """These events, or a new one."""
    with store.write() as c:
        return events.record_events(c, wanted or [build_event(_ids())], now=clock.now())


def list_deliveries(store: Store, subscription: str = "s-1") -> list[DeliveryRow]:
    """Oldest first."""
    with store.read() as c:
        return [listed.delivery for listed in reversed(deliveries.list_deliveries(c, subscription, limit=1000))]


def get_subscription(store: Store, key: str = "s-1") -> SubscriptionRow:
    with store.read() as c:
        row = subscriptions.find_subscription(c, key)
    assert row is not None
    return row


def create_deliverer(
    store: Store, clock: FakeClock, sender: NotingSender, *, slots: HeldCasts | None = None, owner: str = "engine-1", max_tries: int = 5
) -> tuple[Deliverer, HeldCasts]:
    """Its tries begin when the test says so. Pauses of 5, 10, 20, 20, … s."""
    slots = slots or HeldCasts()
    back_off = BackOff(first=5.0, longest=20.0, max_tries=max_tries, chance=lambda: 0.0)
    deliverer = Deliverer(store, clock, owner=owner, slots=slots, senders={"webhook": sender}, back_off=back_off, lease=60.0, keep=7.0)
    return deliverer, slots


def fail(reason: str = "hooks.example answered 500.", **facts: Any) -> NotDelivered:
    return NotDelivered(reason, **facts)
