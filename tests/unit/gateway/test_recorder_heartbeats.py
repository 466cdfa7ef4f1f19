"""Heartbeats and the gateway's own echoes: what is dropped stops nobody and is said, with its reason."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from unittest import mock

import pytest

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.echo import Echo
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.senders import SenderCheck
from api_gateway.store import Connection, Store, StoreRejected, agents, hearing
from api_gateway.store import heartbeats as stored_heartbeats
from api_gateway.store.heartbeats import TakenIn
from compute_agent.contract.models import Heartbeat
from compute_agent.contract.notifications import HEARTBEAT_TYPE, Notification, encode
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import HOST, AgentVoice, HeldCasts, NotingCaster


@pytest.fixture
def voice(clock: FakeClock) -> AgentVoice:
    return AgentVoice(clock)


@pytest.fixture
def recorder(store: Store, clock: FakeClock) -> Recorder:
    return Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())


def list_hosts(store: Store) -> list[str]:
    with store.read() as c:
        return [agent.host for agent in agents.list_agents(c)]


def list_said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if "heartbeats dropped" in record.getMessage()]


class NotingPublisher:
    """Implements EchoPublisher."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        self.sent.append(heartbeat)


def build_echo(store: Store, clock: FakeClock, **changes: object) -> Received:
    """What the gateway says to itself now."""
    publisher = NotingPublisher()
    Echo(store, publisher, clock, publisher_id="gateway:test:1").step()
    (echo,) = publisher.sent
    return Received(encode(replace(echo, payload=echo.payload | changes)), "gateway")


def find_heard_until(store: Store) -> datetime | None:
    with store.read() as c:
        heard = hearing.find_hearing(c)
    return None if heard is None else heard.until


def test_a_heartbeat_that_the_store_cannot_take_is_dropped_alone_and_said(
    recorder: Recorder, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    apply_heartbeats = stored_heartbeats.apply_heartbeats

    def reject_the_second(c: Connection, heartbeats: Sequence[Heartbeat], now: datetime) -> TakenIn:
        if any(heartbeat.host == "host-2" for heartbeat in heartbeats):
            raise StoreRejected("a value out of range")
        return apply_heartbeats(c, heartbeats, now)

    monkeypatch.setattr(stored_heartbeats, "apply_heartbeats", reject_the_second)
    recorder.record_heartbeats([AgentVoice(clock, f"host-{number}", f"journal-{number}").beat() for number in range(1, 5)])
    assert list_hosts(store) == ["host-1", "host-3", "host-4"]
    ((level, said),) = list_said(caplog)
    assert level == logging.ERROR
    assert "heartbeats dropped as not taken in: 1 since" in said
    assert "host host-2, number 1: " in said
    assert "a value out of range" in said


@pytest.mark.parametrize(
    ("event_type", "why", "how"),
    [("server.levitated", "no heartbeats", "'server.levitated'"), (HEARTBEAT_TYPE, "unreadable", "errors for Heartbeat")],
    ids=["type", "payload"],
)
def test_what_is_no_heartbeat_is_dropped_and_it_is_said_why(
    recorder: Recorder, voice: AgentVoice, caplog: pytest.LogCaptureFixture, event_type: str, why: str, how: str
) -> None:
    recorder.record_heartbeats([voice.tell(event_type)])
    ((level, said),) = list_said(caplog)
    assert level == logging.WARNING
    assert f"heartbeats dropped as {why}: 1 since" in said
    assert how in said


def test_the_latest_echo_of_a_batch_counts_in_whatever_order_they_come(recorder: Recorder, store: Store, clock: FakeClock) -> None:
    first = build_echo(store, clock)
    clock.advance(5)
    second, said_at = build_echo(store, clock), clock.now()
    recorder.record_heartbeats([second, first])
    assert find_heard_until(store) == said_at


def test_what_another_gateway_says_to_itself_takes_nothing_from_what_is_heard(recorder: Recorder, store: Store, clock: FakeClock) -> None:
    """Two may share a broker while one of them is moved."""
    others = build_echo(store, clock, store_id="of-another")
    recorder.record_heartbeats([others])
    assert find_heard_until(store) is None
    recorder.record_heartbeats([build_echo(store, clock), others])
    assert find_heard_until(store) == clock.now()


def test_an_echo_heard_before_the_clock_was_put_back_does_not_outlast_it(recorder: Recorder, store: Store, clock: FakeClock) -> None:
    recorder.record_heartbeats([build_echo(store, clock)])
    clock.step(-3600)
    recorder.record_heartbeats([build_echo(store, clock)])
    assert find_heard_until(store) == clock.now()


def test_nobody_is_asked_for_an_inventory_without_a_free_slot_and_with_one_they_are(
    store: Store, clock: FakeClock, voice: AgentVoice
) -> None:
    """A job without a slot would wait, and its like behind it, for as long as the broker's alarm lasts."""
    for size, begun in ((0, 0), (1, 1)):
        slots = HeldCasts(size)
        Recorder(store, NotingCaster(), clock, slots=slots).record_heartbeats([voice.beat(full=False)])
        assert len(slots.jobs) == begun


def test_a_heartbeat_that_was_overtaken_does_not_keep_its_host_from_being_asked(store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    caster = NotingCaster()
    late, in_order = voice.beat(), voice.beat(full=False)
    Recorder(store, caster, clock, slots=ImmediateCasts()).record_heartbeats([in_order, late])
    assert caster.inventories == [HOST]


def test_the_log_tells_each_coming_and_going_of_an_agent_and_no_other_heartbeat(
    recorder: Recorder, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    def beat(*, stopping: bool = False) -> list[str]:
        caplog.clear()
        recorder.record_heartbeats([voice.beat(stopping=stopping)])
        return [line.split(" (")[0] for line in caplog.messages]

    caplog.set_level(logging.INFO)
    assert beat() == [f"host {HOST}: agent fake is up"]
    assert beat() == []
    voice.incarnation = 2
    assert beat() == [f"host {HOST}: agent fake is up"]
    assert beat(stopping=True) == [f"host {HOST}: agent fake stops"]
    assert beat() == [f"host {HOST}: agent fake is up"]


def test_forged_heartbeats_are_said_apart_from_unreadable_ones(
    store: Store, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(store, NotingCaster(), clock, slots=ImmediateCasts(), senders=SenderCheck({"gateway"}, store.store_id))
    recorder.record_heartbeats([Received(b"no json"), replace(voice.beat(), user="agent.host-2")])
    (warning, unreadable), (error, forged) = list_said(caplog)
    assert (warning, error) == (logging.WARNING, logging.ERROR)
    assert "dropped as unreadable: 1 since" in unreadable
    assert "not an oslo.messaging envelope" in unreadable
    assert "dropped as forged: 1 since" in forged
    assert "account 'agent.host-2' spoke for host 'host-1'" in forged


def test_a_whole_fleets_heartbeats_let_others_write_in_between(recorder: Recorder, store: Store, clock: FakeClock) -> None:
    hosts = [f"host-{number}" for number in range(45)]
    with mock.patch.object(store, "write", wraps=store.write) as write:
        recorder.record_heartbeats([AgentVoice(clock, host, f"journal-of-{host}").beat() for host in hosts])
    assert write.call_count == 3
    assert list_hosts(store) == sorted(hosts)
