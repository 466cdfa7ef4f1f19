"""``crashcart-engine`` as a process of its own, against a real broker and a small real agent."""

import os
import signal
import sqlite3
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import pytest
from falcon import testing

from api_gateway.config import load_config
from api_gateway.store import Store, agents, events
from api_gateway.store.actions import ActionRow
from api_gateway.wake import WakeSender
from api_gateway.wsgi import create_app
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.notifications import DEAD_EXCHANGE, DEAD_LETTER_QUEUE, EVENTS_EXCHANGE, RECORDER_QUEUES, decode
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, Service, wait_until
from tests.stack.broker_events import build_events, count_messages, open_quiet_link, publish, settle
from tests.stack.small_agent import SmallAgent
from tests.unit.gateway.engine_parts import add_action, build_server, get_action

RECEIVED_TIMEOUT = 1.0 * PATIENCE
_ENGINE = "import sys; from api_gateway.engine import main; sys.exit(main())"


@pytest.fixture
def state(tmp_path: Path, broker: PrivateRabbitMQ) -> Path:
    (tmp_path / "gateway.conf").write_text(
        f"[DEFAULT]\ntransport_url = {broker.transport_url}\n"
        f"[database]\nconnection = sqlite:///{tmp_path / 'gateway.sqlite'}\nbusy_timeout = 2\n"
        f"[dispatcher]\nwake_socket = {tmp_path / 'wake.sock'}\nreceived_timeout = {RECEIVED_TIMEOUT}\n"
        f"[sweep]\ngap_retry = 1\n[stream]\nlisten_port = 0\n"
    )
    return tmp_path


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{state / 'gateway.sqlite'}", busy_timeout=15)
    store.upgrade_schema()
    yield store
    store.dispose()


@pytest.fixture
def engine(state: Path, store: Store, broker: PrivateRabbitMQ) -> Iterator[Service]:
    """Not started yet. What an earlier test left in the shared queues is dropped."""
    link = open_quiet_link(broker)
    channel = link.channel()
    for queue in (*RECORDER_QUEUES, DEAD_LETTER_QUEUE):
        queue(channel).declare()
        channel.queue_purge(queue.name)
    link.close()
    settle(broker)
    environment = dict(os.environ) | {"PYTHONWARNINGS": "ignore"}
    service = Service(
        "crashcart-engine", [sys.executable, "-c", _ENGINE, "--config-file", str(state / "gateway.conf")], environment, state / "engine.log"
    )
    yield service
    if service.is_running:
        service.stop()
    assert "Traceback" not in service.log.read_text(), service.log.read_text()


@pytest.fixture
def agent(broker: PrivateRabbitMQ) -> Iterator[SmallAgent]:
    agent = SmallAgent(broker, f"host-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
    agent.start()
    yield agent
    agent.stop()


def make_known(agent: SmallAgent, store: Store) -> None:
    agent.beat()
    wait_until(lambda: _find_agent(store, agent.voice.host), 20, "the engine knows the agent")


def _find_agent(store: Store, host: str) -> object:
    with store.read() as c:
        return agents.find_agent(c, host)


def list_sequences(store: Store, epoch: str) -> list[int | None]:
    with store.read() as c:
        return [event.sequence for event in events.list_events(c, limit=100_000) if event.epoch == epoch]


def add_and_wake(store: Store, agent: SmallAgent, state: Path, deadline: float = 30) -> ActionRow:
    action = add_action(store, SystemClock(), host=agent.voice.host, deadline=deadline)
    sender = WakeSender(state / "wake.sock")
    sender.wake()
    sender.close()
    return action


def wait_ended(store: Store, action: ActionRow, timeout: float = 30) -> ActionRow:
    wait_until(lambda: get_action(store, action).ending, timeout, "the action ends")
    return get_action(store, action)


def publish_to_recorder(broker: PrivateRabbitMQ, bodies: list[bytes]) -> None:
    link = open_quiet_link(broker)
    publish(link, RECORDER_QUEUES[0], bodies)
    link.close()


def test_an_action_goes_out_and_its_ending_comes_back(engine: Service, store: Store, agent: SmallAgent, state: Path) -> None:
    engine.start()
    make_known(agent, store)
    took: list[float] = []
    for count in range(1, 6):
        begun = time.monotonic()
        action = add_and_wake(store, agent, state)
        row = wait_ended(store, action)
        took.append(time.monotonic() - begun)
        assert (row.ending, row.decided_by) == ("succeeded", "agent")
        assert 1 <= row.cast_count <= 1 + took[-1] / RECEIVED_TIMEOUT, "cast once, and again only when nothing was heard of it"
        assert len({cast["id"] for cast in agent.actions}) == count
    print(f"from the commit of the action to its recorded ending: {1000 * min(took):.0f} ms")
    assert min(took) < 0.9, "it did not wait for the sweep"


def test_a_mute_agent_is_cast_to_again_with_the_same_id_until_the_deadline(
    engine: Service, store: Store, agent: SmallAgent, state: Path
) -> None:
    engine.start()
    agent.mute = True
    make_known(agent, store)
    action = add_and_wake(store, agent, state, deadline=3.5 * RECEIVED_TIMEOUT)
    agent.wait_for_actions(2)
    time_left = get_action(store, action).deadline - SystemClock().now()
    wait_until(lambda: SystemClock().now() > action.deadline, max(time_left.total_seconds(), 0) + 2, "the deadline passes")
    casts = len(agent.actions)
    assert {cast["id"] for cast in agent.actions} == {action.id}
    assert {cast["deadline"] for cast in agent.actions} == {agent.actions[0]["deadline"]}
    wait_until(lambda: get_action(store, action).lease_owner is None, 5, "the last cast is done")
    assert len(agent.actions) - casts <= 1
    assert get_action(store, action).ending is None, "perhaps delivered: only the grace ends it"


def test_a_host_without_a_queue_ends_expired(engine: Service, store: Store, agent: SmallAgent, state: Path) -> None:
    engine.start()
    agent.voice.host = f"elsewhere-{uuid.uuid4().hex[:8]}"
    make_known(agent, store)
    row = wait_ended(store, add_and_wake(store, agent, state, deadline=4 * PATIENCE), 20)
    assert (row.ending, row.code, row.decided_by) == ("expired", "deadline_passed", "gateway")
    assert row.cast_count == row.unroutable_count > 0


def test_a_host_whose_agent_is_gone_is_full_soon_and_keeps_nobody_else_waiting(
    engine: Service, store: Store, agent: SmallAgent, state: Path, broker: PrivateRabbitMQ
) -> None:
    gone = SmallAgent(broker, f"host-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
    gone.start()  # makes its queue
    engine.start()
    servers = {each.voice.host: build_server(SystemClock(), str(uuid.uuid4())) for each in (agent, gone)}
    for each in (agent, gone):
        each.beat(servers[each.voice.host])
        wait_until(lambda each=each: _find_agent(store, each.voice.host), 20, "the engine knows the agent")  # type: ignore[misc]
    gone.stop()
    conf = load_config([], config_files=[str(state / "gateway.conf")])
    conf.set_override("max_open_actions_per_host", 50, group="api")
    client = testing.TestClient(create_app(conf, store=store), headers={"Host": "localhost"})

    def post(host: str) -> testing.Result:
        body = {"kind": "trigger_crash_dump", "force": True, "deadline_seconds": 60}
        return client.simulate_post(f"/v1/servers/{servers[host].id}/actions", json=body)

    answers = [post(gone.voice.host) for _ in range(100)]
    assert Counter((answer.status_code, answer.headers.get("retry-after")) for answer in answers) == {(202, None): 50, (429, "1"): 50}
    begun = time.monotonic()
    accepted = post(agent.voice.host)
    assert accepted.status_code == 202
    action = accepted.headers["x-openstack-request-id"]
    wait_until(lambda: client.simulate_get(f"/v1/actions/{action}").json["ending"], 10, "another host's action ends")
    assert time.monotonic() - begun < 3 * PATIENCE


def test_the_gateways_own_endings_are_published_for_everybody_and_recorded(
    engine: Service, store: Store, agent: SmallAgent, state: Path, broker: PrivateRabbitMQ
) -> None:
    link = open_quiet_link(broker)
    channel = link.channel()
    EVENTS_EXCHANGE(channel).declare()
    somebody = kombu.Queue(f"somebody.{uuid.uuid4().hex}", EVENTS_EXCHANGE, routing_key="notifications.*", exclusive=True)
    somebody(channel).declare()
    engine.start()
    agent.voice.host = f"elsewhere-{uuid.uuid4().hex[:8]}"
    make_known(agent, store)
    action = add_and_wake(store, agent, state, deadline=0.5)
    message = wait_until(lambda: somebody(channel).get(no_ack=True), 20, "the event comes")
    event = decode(message.body if isinstance(message.body, bytes) else message.body.encode())
    assert (event.event_type, event.payload["action_id"], event.payload["epoch"]) == ("action.ended", action.id, store.store_id)
    assert event.payload["decided_by"] == "gateway"
    wait_until(lambda: list_sequences(store, store.store_id) == [1], 10, "it is in the record")
    link.close()


def test_what_was_published_before_the_first_recorder_ever_ran_is_recorded(engine: Service, store: Store, agent: SmallAgent) -> None:
    agent.publish(*(agent.voice.tell("server.levitated") for _ in range(50)))
    engine.start()
    wait_until(lambda: len(list_sequences(store, agent.voice.journal)) == 50, 30, "all are recorded")
    assert list_sequences(store, agent.voice.journal) == list(range(1, 51))


def test_kill_9_of_the_engine_again_and_again_records_each_event_once_and_in_order(
    engine: Service, store: Store, broker: PrivateRabbitMQ
) -> None:
    count = 6000
    publish_to_recorder(broker, build_events(count))
    kills = 0
    for threshold in (1, 1500, 3000, 4500):
        engine.start()
        wait_until(lambda threshold=threshold: len(list_sequences(store, "journal-1")) >= threshold, 30, "it records", 0.005)  # type: ignore[misc]
        kills += len(list_sequences(store, "journal-1")) < count
        engine.kill()
    engine.start()
    wait_until(lambda: len(list_sequences(store, "journal-1")) >= count, 60, "all are recorded")
    assert kills >= 1, "it was never killed in the middle"
    assert list_sequences(store, "journal-1") == list(range(1, count + 1))


def test_a_store_locked_for_ten_seconds_loses_nothing(engine: Service, store: Store, state: Path, broker: PrivateRabbitMQ) -> None:
    engine.start()
    publish_to_recorder(broker, build_events(10))
    wait_until(lambda: len(list_sequences(store, "journal-1")) == 10, 30, "the engine records")
    somebody = sqlite3.connect(state / "gateway.sqlite", isolation_level=None, timeout=60)
    somebody.execute("BEGIN IMMEDIATE")
    locked = time.monotonic()
    publish_to_recorder(broker, build_events(500, first=11))
    wait_until(lambda: time.monotonic() - locked > 10, 15, "ten seconds are over", 0.5)
    somebody.execute("COMMIT")
    somebody.close()
    wait_until(lambda: len(list_sequences(store, "journal-1")) == 510, 15, "all are recorded")
    assert list_sequences(store, "journal-1") == list(range(1, 511))
    assert "not consuming, the store cannot be written" in engine.log.read_text()


def test_an_action_accepted_while_the_broker_is_away_completes_when_it_is_back(
    engine: Service, store: Store, agent: SmallAgent, state: Path, broker: PrivateRabbitMQ
) -> None:
    engine.start()
    make_known(agent, store)
    settle(broker)
    broker.stop()
    try:
        action = add_and_wake(store, agent, state, deadline=60 * PATIENCE)
        wait_until(lambda: get_action(store, action).cast_count >= 1, 10, "a cast was tried")
    finally:
        broker.start()
    row = wait_ended(store, action, 60)
    assert row.ending == "succeeded"
    assert row.cast_count < 60 * PATIENCE, "once a second at most while it was away"
    assert {cast["id"] for cast in agent.actions} == {action.id}


def test_a_broker_in_alarm_holds_casts_and_neither_the_record_nor_the_stop(
    engine: Service, store: Store, agent: SmallAgent, state: Path, broker: PrivateRabbitMQ
) -> None:
    engine.start()
    make_known(agent, store)
    publish_to_recorder(broker, build_events(5))
    wait_until(lambda: len(list_sequences(store, "journal-1")) == 5, 10, "it records")
    broker.set_memory_alarm(True)
    try:
        action = add_and_wake(store, agent, state, deadline=120 * PATIENCE)
        wait_until(lambda: get_action(store, action).cast_count >= 1, 10, "a cast was tried")
        begun = time.monotonic()
        engine.stop(15)
        stopped_in = time.monotonic() - begun
        assert stopped_in < 8 * PATIENCE
        assert get_action(store, action).ending is None
        engine.start()
        wait_until(lambda: engine.log.read_text().count("crashcart.recorder: consuming") >= 2, 20, "it consumes during the alarm")
    finally:
        broker.set_memory_alarm(False)
    assert wait_ended(store, action, 60).ending == "succeeded"


def test_missing_events_are_asked_for_and_filled_in(engine: Service, store: Store, agent: SmallAgent) -> None:
    engine.start()
    make_known(agent, store)
    lost = [agent.voice.tell("server.levitated") for _ in range(4)]
    agent.remember(*lost)
    agent.publish(agent.voice.tell("server.levitated"))
    wait_until(lambda: set(list_sequences(store, agent.voice.journal)) == {1, 2, 3, 4, 5}, 30, "the gap is filled")
    assert agent.resends[0] == {"epoch": agent.voice.journal, "first": 1, "last": 4}


def test_what_the_broker_gave_up_on_is_recorded_as_well(engine: Service, store: Store, broker: PrivateRabbitMQ) -> None:
    link = open_quiet_link(broker)
    channel = link.channel()
    DEAD_EXCHANGE(channel).declare()
    link.close()
    link = open_quiet_link(broker)
    publish(link, DEAD_LETTER_QUEUE, [*build_events(3), b"poison"])
    engine.start()
    wait_until(lambda: list_sequences(store, "journal-1") == [1, 2, 3], 20, "they are recorded")
    wait_until(lambda: _count_shelved(store) == 1, 10, "the poison is on the shelf")
    wait_until(lambda: count_messages(link, DEAD_LETTER_QUEUE) == 0, 10, "the queue is empty")
    link.close()


def _count_shelved(store: Store) -> int:
    with store.read() as c:
        return events.count_shelved(c)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(engine: Service, number: signal.Signals, starts: Callable[[], None]) -> None:
    starts()
    os.kill(engine.pid, number)
    wait_until(lambda: not engine.is_running, 10, "it stops")
    assert "crashcart-engine stopped" in engine.log.read_text()


@pytest.fixture
def starts(engine: Service) -> Callable[[], None]:
    def start() -> None:
        engine.start()
        wait_until(lambda: engine.log.read_text().count(": consuming") >= 3, 20, "all queues are consumed")

    return start
