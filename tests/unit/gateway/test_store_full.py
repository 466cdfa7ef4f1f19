"""A full disk under the gateway's database: what cannot be written is answered 503 and cast to nobody, and all goes on by itself."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.recorder import Recorder
from api_gateway.store import Store, StoreUnavailable, actions, heartbeats
from api_gateway.sweep import Sweep
from tests.fakes import FakeClock
from tests.http.application import create_application
from tests.http.fleet import RUNNING
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster, add_action, get_action, open_store

AGAIN = {"kind": "trigger_crash_dump", "force": True}
ENOUGH = 50
"""Rows that never fit into what is left of the pages that there are."""


class Disk:
    """The database's: when it is full, SQLite gets no page more, over whichever connection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pages = 1_000_000
        event.listen(store._get_engine(), "begin", self._limit)

    def _limit(self, c: Connection) -> None:
        connection: Any = c.connection.dbapi_connection
        connection.execute(f"PRAGMA max_page_count = {self._pages}").close()

    def fill(self) -> None:
        self._pages = 1  # of which SQLite makes as many as there are
        with suppress(StoreUnavailable):
            while True:
                with self._store.write() as c:
                    c.exec_driver_sql(
                        "INSERT INTO dead_letters (body, reason, source, shelved_at) VALUES ('', ?, 'test', 0)", ("x" * 3000,)
                    )

    def free(self) -> None:
        self._pages = 1_000_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "gateway.sqlite")
    yield store
    store.dispose()


@pytest.fixture
def disk(store: Store) -> Disk:
    return Disk(store)


def test_each_request_is_taken_on_or_answered_503_and_none_of_them_halfway(tmp_path: Path) -> None:
    application = create_application(tmp_path, max_open_actions_per_host=10_000)
    disk = Disk(application.store)
    disk.fill()
    answers = [application.client.simulate_post(f"/v1/servers/{RUNNING}/actions", json=AGAIN) for _ in range(ENOUGH)]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert {(answer.status_code, answer.headers.get("retry-after")) for answer in refused} == {(503, "1")}
    assert application.client.simulate_get("/v2.1/servers").status_code == 200
    with application.store.read() as c:
        kept = {row.id for row in actions.list_actions_of_server(c, RUNNING)}
    promised = {answer.headers["x-openstack-request-id"] for answer in answers if answer.status_code == 202}
    assert promised <= kept
    assert kept.isdisjoint(answer.headers["x-openstack-request-id"] for answer in refused)
    disk.free()
    assert application.client.simulate_post(f"/v1/servers/{RUNNING}/actions", json=AGAIN).status_code == 202
    application.close()


def test_nothing_is_cast_whose_cast_is_not_recorded(store: Store, disk: Disk, clock: FakeClock) -> None:
    """An action that was cast and not counted could be called expired while its NMI is on the way."""
    caster = NotingCaster()
    caster.during_cast = lambda request: seen.append(read_cast_count(store, request.id))
    seen: list[int] = []
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=ImmediateCasts())
    row = add_action(store, clock, deadline=300)
    with store.write() as c:
        for number in range(3 * ENOUGH):
            heartbeats.apply_heartbeats(c, [AgentVoice(clock, f"host-{number}", f"journal-{number}").build_heartbeat()], clock.now())
            actions.insert_action(c, replace(row, id=f"req-{uuid.uuid4()}", host=f"host-{number}"))
    disk.fill()
    with pytest.raises(StoreUnavailable):
        dispatcher.step()
    assert caster.requests == []
    disk.free()
    dispatcher.step()
    assert seen == [1] * 3 * ENOUGH


def read_cast_count(store: Store, action_id: str) -> int:
    with store.read() as c:
        return actions.get_action(c, action_id).cast_count


def test_events_that_find_no_room_are_neither_taken_for_bad_ones_nor_recorded_twice(store: Store, disk: Disk, clock: FakeClock) -> None:
    """The consumer gives the same batch again; what it is told must not be that it can be acknowledged."""
    recorder = Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())
    voice = AgentVoice(clock)
    body: dict[str, Any] = {"release": "0.1", "journal_id": "journal-1", "incarnation": 1, "reason": "a test " + "x" * 500}
    batch = [voice.tell("agent.up", **body) for _ in range(ENOUGH)]
    disk.fill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            recorder.record(batch)
    disk.free()
    recorder.record(batch)
    with store.read() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM events").scalar_one() == ENOUGH
        assert c.exec_driver_sql("SELECT count(*) FROM dead_letters WHERE source <> 'test'").scalar_one() == 0


def test_what_is_past_its_deadline_ends_when_there_is_room(store: Store, disk: Disk, clock: FakeClock) -> None:
    rows = [add_action(store, clock) for _ in range(ENOUGH)]
    sweep = Sweep(store, NotingCaster(), clock, slots=ImmediateCasts())
    clock.advance(31)
    disk.fill()
    with pytest.raises(StoreUnavailable):
        sweep.end_actions_past_deadline()
    assert {get_action(store, row).state for row in rows} == {"accepted"}
    disk.free()
    sweep.end_actions_past_deadline()
    assert {get_action(store, row).code for row in rows} == {"deadline_passed"}
