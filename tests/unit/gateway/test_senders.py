"""Whose word counts: an agent's for its own host, the gateway's for all, and nobody's for another."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from oslo_config import cfg

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.config import load_config
from api_gateway.echo import Echo
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.senders import SenderCheck, find_sender_check
from api_gateway.store import Store, agents, counters, events, hearing, outbox
from compute_agent.contract.broker import list_accounts
from compute_agent.contract.notifications import Notification, encode
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import HOST, SERVER, AgentVoice, NotingCaster, add_action, build_server, get_action, open_store


@pytest.fixture
def recorder(store: Store, clock: FakeClock) -> Recorder:
    senders = SenderCheck({"gateway"}, store.store_id)
    return Recorder(store, NotingCaster(), clock, slots=ImmediateCasts(), senders=senders)


@pytest.fixture
def voice(clock: FakeClock) -> AgentVoice:
    return AgentVoice(clock)


def count_forged(store: Store) -> int:
    with store.read() as c:
        return counters.list_violations(c).get("forged_sender", 0)


def read_record(store: Store) -> tuple[list[str], int]:
    """Types of what is recorded, and how much is on the shelf."""
    with store.read() as c:
        return [event.event_type for event in events.list_events(c)], events.count_shelved(c)


class NotingPublisher:
    """Implements EchoPublisher."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []

    def publish_heartbeat(self, heartbeat: Notification) -> None:
        self.sent.append(heartbeat)


@pytest.mark.parametrize("user", ["agent.host-2", "agent.host-1.example", "agent.", "host-1", "somebody", "", None])
def test_an_event_of_a_host_from_another_account_is_shelved_counted_and_said(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, user: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    action = add_action(store, clock)
    forged = replace(voice.tell_ended(action), user=user)
    with caplog.at_level(logging.ERROR):
        recorder.record([voice.tell_received(action), forged, voice.tell("server.levitated")])
    assert read_record(store) == (["action.received", "server.levitated"], 1), "its neighbours are recorded"
    assert get_action(store, action).ending is None
    assert count_forged(store) == 1
    assert "action.ended" in caplog.text


def test_what_a_forger_wrote_fills_no_log_and_makes_no_line_of_its_own(
    recorder: Recorder, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    forger = AgentVoice(clock, "host\n" * 100_000)
    for forged in (
        replace(forger.tell("all is well\n" * 100_000), user="agent.host-2"),
        replace(AgentVoice(clock).tell("all is well", host="host\n" * 100_000), user="agent.host-2"),
    ):
        recorder.record([forged])
        recorder.record_heartbeats([forged])
        clock.advance(60)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert all(len(line) < 1000 and "\n" not in line for line in said)


def test_the_gateway_speaks_for_every_host(recorder: Recorder, store: Store, voice: AgentVoice) -> None:
    own = replace(AgentVoice(FakeClock(), HOST, store.store_id).tell("agent.down", server=None), user="gateway")
    recorder.record([own, replace(voice.tell("agent.up", server=None), user="gateway")])
    assert read_record(store) == (["agent.down", "agent.up"], 0)


def test_no_agent_speaks_for_the_gateway_not_even_of_its_own_host(recorder: Recorder, store: Store) -> None:
    recorder.record([AgentVoice(FakeClock(), HOST, store.store_id).tell("agent.down", server=None)])
    assert read_record(store) == ([], 1)
    assert count_forged(store) == 1


def test_nobody_can_foresee_the_id_of_what_the_gateway_will_say(tmp_path: Path, clock: FakeClock) -> None:
    """Whoever had an event recorded under it would have the gateway's own left out. Nor do two histories of one store share an id."""
    body = {"release": "1", "journal_id": "j", "incarnation": 1, "reason": "silent"}
    said = []
    for store in (open_store(tmp_path / "first.sqlite"), open_store(tmp_path / "second.sqlite")):
        with store.write() as c:
            outbox.append_event(c, "agent.down", server=None, host=HOST, occurred_at=clock.now(), body=body)
            said += [(store.store_id, row.sequence, row.message_id) for row in outbox.list_unsent(c)]
        store.dispose()
    (*first_place, first_id), (*second_place, second_id) = said
    assert first_place == second_place
    assert first_id != second_id


def test_what_names_no_host_is_nobodys_word(recorder: Recorder, store: Store, voice: AgentVoice) -> None:
    recorder.record([voice.tell("server.levitated", host=None), voice.tell("server.levitated", host=["host-1"])])
    assert read_record(store) == ([], 2)


def test_forged_heartbeats_are_dropped_and_counted(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, caplog: pytest.LogCaptureFixture
) -> None:
    other = AgentVoice(clock, "host-2", "journal-2")
    forged = [replace(other.beat(build_server(clock)), user=user) for user in (f"agent.{HOST}", None)]
    with caplog.at_level(logging.ERROR):
        recorder.record_heartbeats([*forged, voice.beat()])
    with store.read() as c:
        assert agents.find_agent(c, HOST) is not None
        assert agents.find_agent(c, "host-2") is None
    assert count_forged(store) == 2
    assert "spoke for host 'host-2'" in caplog.text


def test_no_agent_makes_the_gateway_believe_that_it_hears(recorder: Recorder, store: Store, clock: FakeClock) -> None:
    publisher = NotingPublisher()
    Echo(store, publisher, clock, publisher_id="gateway:test:1").step()
    body = encode(publisher.sent[0])
    recorder.record_heartbeats([Received(body, f"agent.{HOST}")])
    with store.read() as c:
        assert hearing.find_hearing(c) is None
    recorder.record_heartbeats([Received(body, "gateway")])
    with store.read() as c:
        assert hearing.find_hearing(c) is not None


def test_without_accounts_of_their_own_all_are_believed(store: Store, clock: FakeClock, voice: AgentVoice) -> None:
    recorder = Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())
    recorder.record([replace(voice.tell("server.levitated", server=SERVER), user=user) for user in (None, "crashcart")])
    assert read_record(store) == (["server.levitated"] * 2, 0)


def test_the_gateways_accounts_are_those_of_its_transport_url() -> None:
    assert list_accounts("rabbit://gateway:x@a:1,gate%40way:y@b:2/vhost") == {"gateway", "gate@way"}
    assert list_accounts("rabbit://localhost/") == {"guest"}


def test_other_machines_of_the_gateway_may_have_accounts_of_their_own(store: Store, clock: FakeClock, tmp_path: Path) -> None:
    """Else what they say would be shelved; so would what was said under a former account and is still on its way."""
    path = tmp_path / "gateway.conf"
    path.write_text("[recorder]\nverify_senders = true\ngateway_accounts = gateway-2, old\n")
    conf = load_config(["--config-file", str(path)], prog="test")
    conf.register_opt(cfg.StrOpt("transport_url", default="rabbit://gateway-1:x@localhost/"))  # oslo.messaging's
    senders = find_sender_check(conf, store.store_id)
    recorder = Recorder(store, NotingCaster(), clock, slots=ImmediateCasts(), senders=senders)
    own = AgentVoice(clock, HOST, store.store_id)
    accounts = ("gateway-1", "gateway-2", "old", "gateway", f"agent.{HOST}")
    recorder.record([replace(own.tell("agent.down", server=None), user=user) for user in accounts])
    assert read_record(store) == (["agent.down"] * 3, 2)
