"""However many events come at once, they change what they would change one by one."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import actions as stored_actions
from api_gateway.store import endings
from api_gateway.store.tables import actions, epochs, events, gaps, outbox, servers, sightings
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import Watchdog
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import KIND, SERVER, AgentVoice, NotingCaster, build_server, open_store
from tests.unit.gateway.store_parts import build_action

ANOTHER = "66666666-7777-4888-8999-000000000000"
UNASKED = "req-asked-of-the-agent-itself"
STATES = (
    ("server.started", PowerState.RUNNING),
    ("server.stopped", PowerState.SHUTDOWN),
    ("server.paused", PowerState.PAUSED),
    ("server.rebooted", PowerState.RUNNING),
    ("server.panicked", PowerState.CRASHED),
)


def test_an_event_changes_the_same_alone_and_among_others(tmp_path: Path, clock: FakeClock) -> None:
    for seed in range(8):
        told = tell_at_random(seed, clock)
        at_once, one_by_one = tmp_path / f"{seed}-at-once.sqlite", tmp_path / f"{seed}-one-by-one.sqlite"
        assert record(at_once, clock, [told]) == record(one_by_one, clock, [[message] for message in told]), f"seed {seed}"


def tell_at_random(seed: int, clock: FakeClock) -> list[Received]:
    """Two hosts that both have the server, the one's own action, one that the gateway knows nothing of, and messages that are lost, come
    twice, or overtake others."""
    chance = random.Random(seed)
    moment = FakeClock(clock.now())
    voices = [AgentVoice(moment, host, f"journal-of-{host}") for host in ("a", "b")]
    told: list[Received] = []
    for _ in range(25):
        moment.advance(chance.choice((-1.0, 0.0, 1.0, 2.0)))
        voice, action = chance.choice(voices), chance.choice(("req-1", "req-2", UNASKED))
        event_type, state = chance.choice(STATES)
        said: list[tuple[str, dict[str, Any]]] = [
            (event_type, {"server": chance.choice((SERVER, ANOTHER)), "power_state": state, "reason": "So."}),
            ("action.received", _describe(action) | {"project": "demo", "user": "ann", "deadline": "2026-01-01T00:01:00+00:00"}),
            ("action.started", _describe(action)),
            ("action.ended", _describe(action) | {"ending": "succeeded", "code": "signal_delivered", "reason": "So."}),
            ("action.observed", _describe(action) | _describe_observation(moment, chance)),
            ("server.watchdog.changed", {"server": SERVER, "watchdog": Watchdog(pending_restart=chance.random() < 0.5).to_wire()}),
            ("server.levitated", {"server": SERVER}),
        ]
        kind, body = chance.choice((said[0], chance.choice(said[1:])))
        message = voice.tell(kind, **body)
        told += [message] * chance.choice((0, 1, 1, 1, 2))
    for _ in range(3):
        first, second = chance.randrange(len(told)), chance.randrange(len(told))
        told[first], told[second] = told[second], told[first]
    return told


def _describe(action: str) -> dict[str, Any]:
    return {"server": SERVER, "action_id": action, "kind": KIND, "decided_by": "agent"}


def _describe_observation(clock: FakeClock, chance: random.Random) -> dict[str, Any]:
    observation, final = chance.choice((("nothing_seen_yet", False), ("guest_panicked", True), ("guest_rebooted", True)))
    return {"observation": observation, "final": final, "observed_at": clock.now().isoformat(), "text": "So."}


def record(database: Path, clock: FakeClock, batches: Sequence[Sequence[Received]]) -> dict[str, list[tuple[Any, ...]]]:
    """What the tables have when it is recorded."""
    store = open_store(database)
    recorder = Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())
    running, copy = build_server(clock), build_server(clock).model_copy(update={"power_state": PowerState.SHUTDOWN})
    recorder.record_heartbeats(
        [
            AgentVoice(clock, "a", "journal-of-a").beat(running, running.model_copy(update={"id": ANOTHER})),
            AgentVoice(clock, "b", "journal-of-b").beat(copy),
        ]
    )
    with store.write() as c:
        for action in ("req-1", "req-2"):
            stored_actions.insert_action(c, build_action(clock, id=action, host="a", server=SERVER))
        endings.end_by_gateway(c, "req-2", ending=Ending.UNKNOWN, code=Code.NOT_REPORTED, reason="Silence.", at=clock.now())
    for batch in batches:
        recorder.record(batch)
    with store.read() as c:
        changed = (actions, epochs, servers, sightings)
        tables = {table.name: c.execute(select(table).order_by(*table.primary_key)).all() for table in changed}
        kept = [column for column in events.c if column.name != "project"]  # that of the batch's beginning
        tables["events"] = c.execute(select(*kept).order_by(events.c.position)).all()
        tables["gaps"] = c.execute(select(gaps.c.epoch, gaps.c.first, gaps.c.last).order_by(gaps.c.epoch, gaps.c.first)).all()
        tables["outbox"] = c.execute(select(outbox.c.event_type, outbox.c.server).order_by(outbox.c.event_type, outbox.c.server)).all()
    store.dispose()
    return {name: [tuple(row) for row in rows] for name, rows in tables.items()}
