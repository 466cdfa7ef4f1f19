"""Whose word an event is: a host's own account speaks for it and its journal, the gateway's for all."""

import pytest

from compute_agent.consumer import Disbelieved, Event, Follower, Senders, create_kept_queue
from compute_agent.contract.notifications import Notification
from tests.unit.consumer.small_broker import SmallBroker
from tests.unit.consumer.told import make_body, make_event

GATEWAY = "gateway"


def follow(broker: SmallBroker, senders: Senders | None) -> list[object]:
    follower = Follower(broker.open_link, create_kept_queue("consumer.test"), senders=senders, clock=lambda: 0.0, first_pause=0.0)
    broker.when_idle = follower.stop
    return list(follower.follow())


def test_an_event_is_given_with_the_account_that_published_it_also_when_it_was_held_back() -> None:
    broker = SmallBroker([make_body(1), make_body(3), make_body(2)])
    broker.sender = "agent.host-a"
    told = follow(broker, None)
    assert [event.sender for event in told if isinstance(event, Event)] == ["agent.host-a"] * 3


def test_what_another_account_says_of_a_host_is_told_as_such_and_takes_the_place_of_nothing() -> None:
    senders = Senders([GATEWAY])
    forged = SmallBroker([make_body(1)])
    forged.sender = "agent.host-b"
    (told,) = follow(forged, senders)
    assert isinstance(told, Disbelieved)
    assert (told.reason, told.sender) == ("account 'agent.host-b' spoke for host 'host-a'", "agent.host-b")
    assert forged.unacknowledged == {}
    honest = SmallBroker([make_body(1)])
    honest.sender = "agent.host-a"
    assert [type(one) for one in follow(honest, senders)] == [Event]


@pytest.mark.parametrize(("sender", "objects"), [("agent.host-a", False), (GATEWAY, False), ("consumer.x", True), (None, True)])
def test_a_host_is_believed_by_its_own_account_and_by_the_gateways(sender: str | None, objects: bool) -> None:
    assert bool(Senders([GATEWAY]).find_objection(make_event(1), sender)) is objects


def test_nobody_speaks_in_the_journal_of_another_but_the_gateway_has_its_own_back() -> None:
    senders = Senders([GATEWAY])
    own = make_event(1, "journal", host="host-a")
    of_another_host = Notification("id", "x", "p", "info", "t", {"host": "host-b", "epoch": "journal", "sequence": 2})
    assert senders.find_objection(own, "agent.host-a") is None
    assert senders.find_objection(of_another_host, "agent.host-b") == "account 'agent.host-b' spoke for the journal of 'agent.host-a'"
    assert senders.find_objection(own, GATEWAY) is None
    assert senders.find_objection(own, "agent.host-a") == "account 'agent.host-a' spoke for the journal of 'gateway'"


def test_an_event_about_no_host_is_the_gateways_alone() -> None:
    event = Notification("id", "x", "p", "info", "t", {})
    assert Senders([GATEWAY]).find_objection(event, GATEWAY) is None
    assert Senders([GATEWAY]).find_objection(event, "agent.") is not None
