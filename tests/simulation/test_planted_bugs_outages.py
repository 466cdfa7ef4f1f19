"""The same for what is missing or there twice: a second engine, room on a disk, an answer, a driver that comes back. Each bug is found."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from api_gateway import acceptance
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.store import StoreUnavailable
from api_gateway.store import casts as stored_casts
from api_gateway.store.actions import ActionRow
from compute_agent.actions import Actions
from compute_agent.contract.errors import Code
from compute_agent.host_dump_action import TakeHostDump
from compute_agent.host_dumps import HostDumps
from compute_agent.journal import JournalFull, JournalledAction
from compute_agent.observer import Observer
from compute_agent.reset_timer_action import ResetWatchdogTimer
from tests.simulation.broker import Faults
from tests.simulation.hypervisor import DriverFaults
from tests.simulation.test_planted_bugs import Plant, forget_gaps
from tests.simulation.test_planted_bugs_rare import find_planted

_CASTABLE = stored_casts.claim_castable


def ignore_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine casts what another one is casting."""

    def claim(c: Any, **options: Any) -> list[ActionRow]:
        c.exec_driver_sql("UPDATE actions SET lease_owner = NULL, lease_until = NULL")
        return _CASTABLE(c, **options)

    monkeypatch.setattr(stored_casts, "claim_castable", claim)


def forget_idempotency_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks again because no answer came gets another action."""
    accept_action = acceptance.accept_action

    def accept(c: Any, server: Any, asked: acceptance.Asked, **options: Any) -> acceptance.Accepted:
        return accept_action(c, server, dataclasses.replace(asked, idempotency_key=None), **options)

    monkeypatch.setattr(acceptance, "accept_action", accept)


def go_on_without_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is called although there was no room to write ``started``."""
    start = Actions._start

    def start_anyway(self: Actions, action: JournalledAction, seen: Any) -> bool:
        try:
            return start(self, action, seen)
        except JournalFull:
            return True

    monkeypatch.setattr(Actions, "_start", start_anyway)


def drop_what_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of the hypervisor's that cannot be journalled now is forgotten."""
    step = Observer.step

    def step_and_forget(self: Observer, timeout: float) -> bool:
        try:
            return step(self, timeout)
        except JournalFull:
            self._unrecorded = None
            return True

    monkeypatch.setattr(Observer, "step", step_and_forget)


def acknowledge_what_was_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store without room counts as one that has recorded, and nobody looks for gaps."""
    record = Recorder.record

    def record_or_not(self: Recorder, messages: Sequence[Received], *arguments: Any) -> None:
        try:
            record(self, messages, *arguments)
        except StoreUnavailable:
            return

    monkeypatch.setattr(Recorder, "record", record_or_not)
    forget_gaps(monkeypatch)


def take_silence_for_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that does not come back counts as one that did nothing."""
    monkeypatch.setattr(Actions, "_give_up", lambda self, action, kind: kind.result(Code.BACKEND_UNAVAILABLE))


def write_memory_in_a_holdoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that perhaps writes its own dump is stopped for ours."""
    monkeypatch.setattr(TakeHostDump, "check_at_start", lambda *_: None)


def leave_half_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead agent's dump had written lies there for ever."""
    monkeypatch.setattr(HostDumps, "remove_unfinished", lambda self: None)


def expire_what_was_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feeding that a dead agent had begun counts as one that was not."""
    monkeypatch.setattr(ResetWatchdogTimer, "is_begun", lambda *_: False)


_FED: dict[str, Any] = {"actions": 0, "logs": 4, "feedings": 40, "deadlines": (2.0, 6.0), "driver": DriverFaults(latency=4.0)}
_BUSY_ENGINES: dict[str, Any] = {"engines": 2, "alarms": 6.0, "deadlines": (10.0, 60.0), "broker": Faults(latency=0.2, cast_raises=0.3)}

BUGS: list[tuple[Plant, dict[str, Any]]] = [
    (ignore_leases, _BUSY_ENGINES),
    (forget_idempotency_keys, {"keyed": 1.0, "crash_at_commit": 0.05}),
    (go_on_without_started, {"full_journals": 12.0, "agent_kills": 8.0, "driver": DriverFaults(slow=0.5)}),
    (drop_what_finds_no_room, {"full_journals": 8.0, "firings": 40.0}),
    (take_silence_for_a_no, {"driver": DriverFaults(never=0.5)}),
    (write_memory_in_a_holdoff, {"host_dumps": 20, "guest_moves": 0.0}),
    (leave_half_a_file, {"actions": 0, "host_dumps": 20, "agent_kills": 8.0, "driver": DriverFaults(slow=0.7)}),
    (expire_what_was_fed, {**_FED, "agent_kills": 16.0}),
    (acknowledge_what_was_not_stored, {"full_stores": 8.0, "duration": 90.0}),
]

FIRST_TRIED: dict[Plant, int] = {ignore_leases: 2, forget_idempotency_keys: 6, go_on_without_started: 22}
"""Seeds that were the first to find a bug; where the world has changed since, the others are tried."""


@pytest.mark.parametrize(("plant", "faults"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_is_found(
    plant: Plant, faults: dict[str, Any], template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_planted(plant, faults, FIRST_TRIED.get(plant, 0), template, folder, monkeypatch)
