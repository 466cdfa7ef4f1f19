"""Whatever a broken or hostile publisher sends, the recorder takes the batch in: recorded, or on the shelf, and never again."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, actions, agents, events
from api_gateway.store.tables import dead_letters
from api_gateway.sweep import Sweep
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.notifications import HEARTBEAT_TYPE, encode
from tests.contract import golden
from tests.databases import write_database
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster, add_action, add_agent, get_action

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 10**400, float("nan"), float("inf")])
    | st.text(st.characters())  # lone surrogates and NUL as well
    | st.sampled_from([golden.ACTION_ID, golden.SERVER_ID, golden.HOST, "2026-03-01T12:30:00Z", "9999-12-31T23:59:59-14:00"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


_numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"sqlite:///{write_database(tmp_path_factory.mktemp('hostile') / 'gateway.sqlite')}")
    yield store
    store.dispose()


@pytest.fixture(scope="module")
def recorder(store: Store) -> Recorder:
    return Recorder(store, NotingCaster(), FakeClock(golden.LATER), slots=ImmediateCasts())


def change(body: bytes, place: list[str], value: Any) -> bytes:
    """The message with one value somewhere in it replaced."""
    envelope = json.loads(body)
    message = json.loads(envelope["oslo.message"])
    target = message
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return json.dumps({**envelope, "oslo.message": json.dumps(message)}).encode()


@st.composite
def hostile_events(draw: st.DrawFn) -> bytes:
    """A real event with one or two values that nobody would send."""
    event_type = draw(st.sampled_from(sorted(EVENT_TYPES)))
    body = encode(golden.make_notification(event_type))
    places = [[key] for key in ("message_id", "event_type", "priority", "timestamp", "payload")]
    places += [["payload", key] for key in golden.make_payload(event_type)]
    for place in draw(st.lists(st.sampled_from(places[:4] + places[5:]), max_size=2)):
        body = change(body, place, draw(ANYTHING))
    return body


@settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hostile_events() | st.binary(max_size=40), min_size=1, max_size=4))
def test_any_batch_of_events_is_recorded_or_shelved(store: Store, recorder: Recorder, batch: list[bytes]) -> None:
    good = change(encode(golden.make_notification("server.paused")), ["message_id"], f"good-{next(_numbers)}")
    recorder.record([Received(body) for body in (*batch, good)])
    with store.read() as c:
        last = events.list_events(c, limit=1_000_000)[-1]
    assert last.event_type == "server.paused", "what came behind the bad ones is recorded"


def test_what_no_database_may_take_in_one_piece_is_shelved_in_part(store: Store, recorder: Recorder) -> None:
    """MariaDB hangs up on a statement of more than 16 MiB, which looks as if it were away: the recorder would try for ever."""
    with store.read() as c:
        position, shelved = events.get_last_position(c), events.count_shelved(c)
    long = change(encode(golden.make_notification("server.paused")), ["payload", "more"], "'" * 4 * 2**20)
    recorder.record([Received(body) for body in (long, b"'" * 2**21)])
    recorder.record_heartbeats([Received(long)])
    with store.read() as c:
        assert (events.get_last_position(c), events.count_shelved(c)) == (position, shelved + 2)
        shelf = c.execute(select(dead_letters.c.reason, func.length(dead_letters.c.body)).order_by(dead_letters.c.id)).all()[-2:]
    assert {length for _, length in shelf} == {2**20}
    assert f"{len(long)} bytes are more than a message may have" in shelf[0].reason
    assert f"this is its beginning, of {2**21} bytes" in shelf[1].reason


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_any_heartbeat_is_taken_in_or_dropped(recorder: Recorder, data: st.DataObject) -> None:
    body = encode(golden.make_notification(HEARTBEAT_TYPE))
    heartbeat = golden.HEARTBEAT.to_wire()
    places = [["payload", key] for key in heartbeat]
    places += [["payload", "inventory", key] for key in heartbeat["inventory"]]
    places += [["payload", "capabilities", key] for key in heartbeat["capabilities"]]
    for place in data.draw(st.lists(st.sampled_from(places), max_size=2, unique_by=tuple)):
        try:
            body = change(body, place, data.draw(ANYTHING))
        except (TypeError, KeyError, IndexError):
            continue  # its parent was replaced before
    recorder.record_heartbeats([Received(body)])


@pytest.mark.parametrize("bound", [1e200, float("inf"), float("nan"), -1e100, 1e15])
def test_no_agent_keeps_the_actions_of_others_open(store: Store, bound: float) -> None:
    """Whatever it says of how long its driver and its silence may take."""
    clock = FakeClock(golden.LATER)
    host = f"broken{abs(bound):.0f}"
    body = encode(golden.make_notification(HEARTBEAT_TYPE))
    for key, value in {"host": host, "interval": bound, "driver_bound": bound}.items():
        body = change(body, ["payload", key], value)
    Recorder(store, NotingCaster(), clock, slots=ImmediateCasts()).record_heartbeats([Received(body)])
    with store.read() as c:
        assert agents.find_agent(c, host) is not None
    add_agent(store, AgentVoice(clock, "other"), clock)
    theirs, ours = (add_action(store, clock, host=host, deadline=deadline) for host, deadline in ((host, 29), ("other", 30)))
    with store.write() as c:
        for action in (theirs, ours):
            actions.change_action(c, action.id, {"cast_count": 1})
    clock.advance(100)
    sweep = Sweep(store, NotingCaster(), clock, slots=ImmediateCasts())
    sweep.end_actions_past_deadline()
    assert get_action(store, ours).ending == "unknown"
    clock.advance(86_400)
    sweep.end_actions_past_deadline()
    assert get_action(store, theirs).ending == "unknown"
