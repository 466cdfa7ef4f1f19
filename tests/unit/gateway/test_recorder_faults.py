"""What cannot be taken in: the shelf and the log say why, and from which queue it came."""

import logging
from typing import Any

import pytest
from sqlalchemy import select

from api_gateway import recorder as recorder_module
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import Store, StoreRejected, events, reports
from api_gateway.store.tables import dead_letters
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import AgentVoice, NotingCaster, add_action, get_action

QUEUE = "a-queue-of-its-own"


@pytest.fixture
def voice(clock: FakeClock) -> AgentVoice:
    return AgentVoice(clock)


@pytest.fixture
def recorder(store: Store, clock: FakeClock) -> Recorder:
    return Recorder(store, NotingCaster(), clock, slots=ImmediateCasts())


def list_shelved(store: Store) -> list[tuple[str, str, bytes]]:
    with store.read() as c:
        return [tuple(row) for row in c.execute(select(dead_letters.c.source, dead_letters.c.reason, dead_letters.c.body))]


class FailingOnce:
    """Raises at the first call, and does what it is to do from then on."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._failed = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not self._failed:
            self._failed = True
            raise StoreRejected("once")
        return self._function(*args, **options)


def test_what_can_neither_be_applied_nor_recorded_is_shelved_with_both_reasons(
    recorder: Recorder, store: Store, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def reject(*_: object, **__: object) -> None:
        tries.append(f"refused at try {len(tries) + 1}")
        raise StoreRejected(tries[-1])

    monkeypatch.setattr(recorder_module.stored_events, "record_events", reject)
    message = voice.tell("server.levitated")
    recorder.record([message], QUEUE)
    ((source, reason, body),) = list_shelved(store)
    assert (source, body) == (QUEUE, message.body)
    first, second = reason.split("; then ")
    assert tries[0] in first
    assert tries[1] in second


@pytest.mark.parametrize("shelve", [events.shelve, FailingOnce(events.shelve)], ids=["at-once", "at-the-second-try"])
def test_what_cannot_be_read_is_shelved_with_its_queue_and_the_reason(
    recorder: Recorder, store: Store, monkeypatch: pytest.MonkeyPatch, shelve: Any
) -> None:
    monkeypatch.setattr(recorder_module.stored_events, "shelve", shelve)
    recorder.record([Received(b"no json")], QUEUE)
    ((source, reason, body),) = list_shelved(store)
    assert (source, body) == (QUEUE, b"no json")
    assert reason.startswith("not an oslo.messaging envelope")


def test_a_fault_of_ours_is_told_with_its_traceback_however_many_messages_run_into_it(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(reports, "apply_started", fail)
    action = add_action(store, clock)
    recorder.record([voice.tell("action.started", action_id=action.id, kind=action.kind) for _ in range(2)])
    (told,) = (record for record in caplog.records if record.getMessage().startswith("messages that cannot be taken in: "))
    assert told.levelno == logging.ERROR
    assert "a fault of ours" in told.getMessage()
    assert told.exc_info is not None
    assert told.exc_info[0] is ZeroDivisionError


def test_the_neighbours_of_what_cannot_be_taken_in_are_applied(
    recorder: Recorder, store: Store, clock: FakeClock, voice: AgentVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(reports, "apply_started", fail)
    before, broken, behind = (add_action(store, clock) for _ in range(3))
    recorder.record(
        [voice.tell_received(before), voice.tell("action.started", action_id=broken.id, kind=broken.kind), voice.tell_received(behind)]
    )
    assert [get_action(store, action).state for action in (before, broken, behind)] == ["received", "accepted", "received"]
