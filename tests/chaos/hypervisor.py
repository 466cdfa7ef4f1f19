"""A fake hypervisor that lives on when its agent dies: its machines' states, and each NMI they took, are on disk before it takes effect.

One directory per host: ``machines.json`` says which machines it has, ``states`` how they are, ``calls.jsonl`` what was done to them,
``mood.json`` how calls go now, ``clock`` by how many seconds the host's clock is wrong.
"""

import contextvars
import json
import os
import pickle
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.drivers.fake_server import Call, NmiEffect
from compute_agent.drivers.models import DriverEventKind
from tests.chaos.history import What

REPAIR_AFTER = 2.0
"""Seconds after an NMI when a machine with a crash kernel has rebooted, and one that panicked was started again."""
LONGEST_HANG = 60.0

CURRENT_ACTION: contextvars.ContextVar[str | None] = contextvars.ContextVar("current_action", default=None)
"""The action that the agent's worker carries out: a driver is not told."""


class Mood(StrEnum):
    """How calls go."""

    WELL = "well"
    SLOW = "slow"
    HANGING = "hanging"
    UNAVAILABLE = "unavailable"
    LOSING_ANSWERS = "losing answers"
    RAISING = "raising"


class LibraryBroke(Exception):
    """What no driver declares."""


@dataclass(frozen=True)
class Machine:
    """One of a host's: whose it is, and how it takes an NMI."""

    project: str
    effect: NmiEffect

    @classmethod
    def list_of(cls, directory: Path) -> list["Machine"]:
        return [cls(entry["project"], NmiEffect(entry["effect"])) for entry in json.loads((directory / "machines.json").read_text())]


def write_machines(directory: Path, machines: list[Machine]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "machines.json").write_text(json.dumps([asdict(machine) for machine in machines]))
    set_mood(directory, Mood.WELL)
    set_clock(directory, 0.0)


def set_mood(directory: Path, mood: Mood, *, chance: float = 1.0, seconds: float = 0.0) -> None:
    """From now on each call goes so with that chance; ``seconds`` is how long a slow one takes."""
    _replace(directory / "mood.json", json.dumps({"mood": mood, "chance": chance, "seconds": seconds}).encode())


def set_clock(directory: Path, offset: float) -> None:
    """The host's clock is wrong by so many seconds from now on."""
    _replace(directory / "clock", str(offset).encode())


def read_clock(directory: Path) -> float:
    return float((directory / "clock").read_text())


def list_ids(directory: Path, seed: str, clock: Clock) -> list[str]:
    """The ids of its machines, in their order."""
    return [server.id for server in ChaosHypervisor(clock, directory, seed=seed).list_servers()]


class ChaosHypervisor(FakeHypervisor):
    """The machines of ``directory``, as they were left."""

    def __init__(self, clock: Clock, directory: Path, *, seed: str, call_bound: float = 5.0) -> None:
        super().__init__(clock, seed=seed, call_bound=call_bound)
        self._directory = directory
        self._calls = os.open(directory / "calls.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._chance = random.Random()
        self._repairs: dict[str, float] = {}
        self._host = seed
        for machine in Machine.list_of(directory):
            server = self.make_server(effect=machine.effect, project=machine.project)
            self.change(server, started_at=datetime(2026, 1, 1, tzinfo=UTC))
        self._load()

    # As a hypervisor

    def inject_nmi(self, server: str) -> None:
        call = uuid.uuid4().hex
        self._record_call(call, server, "begins")
        with _remembering(call):
            try:
                super().inject_nmi(server)
            finally:
                self._record_call(call, server, "returns")

    def perform(self, server: str, call: Call, deliver: Callable[[], None]) -> None:
        mood, seconds = self._draw_mood()
        if mood is Mood.UNAVAILABLE:
            raise BackendUnavailable(server, "the hypervisor is not in the mood")
        if mood is Mood.SLOW:
            time.sleep(seconds)
        elif mood is Mood.HANGING:
            self._hang()
        elif mood is Mood.RAISING and self._chance.random() < 0.5:
            raise LibraryBroke(f"{call} broke before it did anything")
        super().perform(server, call, deliver)
        if mood is Mood.RAISING:
            raise LibraryBroke(f"{call} broke when it was done")
        if mood is Mood.LOSING_ANSWERS and call is not Call.COLLECT_DIAGNOSTICS:  # who only reads need not say "perhaps"
            raise OutcomeUnknown(server, "the answer was lost")

    def resume_repairs(self) -> None:
        """Those that an earlier life left undone."""
        for server, at in list(self._repairs.items()):
            self._repair_at(server, at)

    def _deliver(self, server: str) -> None:
        self._record_call(_CURRENT_CALL.get(), server, "signal")
        super()._deliver(server)

    def _take_effect(self, server: str) -> None:
        super()._take_effect(server)
        with self._lock:
            if self._get(server).effect is NmiEffect.SURVIVE:
                return
            at = self._repairs.setdefault(server, time.time() + REPAIR_AFTER)
            self._save()
        self._repair_at(server, at)

    def _repair_at(self, server: str, at: float) -> None:
        timer = threading.Timer(max(0.0, at - time.time()), self._repair, (server,))
        timer.daemon = True
        timer.start()

    def _repair(self, server: str) -> None:
        with self._lock:
            if self._repairs.pop(server, None) is None:
                return
            _append(self._calls, What.RESET, server=server, host=self._host)
            if self._get(server).seen.power_state is PowerState.CRASHED:
                self.stop(server)
                self.start(server)
            else:
                self.reboot(server)

    # On disk

    def _move(self, server: str, power_state: PowerState, kind: DriverEventKind, reason: str, **times: datetime | None) -> None:
        with self._lock:
            super()._move(server, power_state, kind, reason, **times)
            self._save()

    def change_device(self, server: str, **devices: Any) -> None:
        with self._lock:
            super().change_device(server, **devices)
            self._save()

    def _save(self) -> None:
        seen = {server: (fake.seen, fake.free_slots) for server, fake in self._servers.items()}
        _replace(self._directory / "states", pickle.dumps((seen, self._repairs)))

    def _load(self) -> None:
        path = self._directory / "states"
        if not path.exists():
            return
        seen, self._repairs = pickle.loads(path.read_bytes())
        for server, (state, free_slots) in seen.items():
            self._servers[server].seen, self._servers[server].free_slots = state, free_slots

    def _record_call(self, call: str | None, server: str, phase: str) -> None:
        _append(
            self._calls, What.CALL, phase=phase, call=call, action=CURRENT_ACTION.get(), server=server, host=self._host, pid=os.getpid()
        )

    # Moods

    def _draw_mood(self) -> tuple[Mood, float]:
        setting = json.loads((self._directory / "mood.json").read_text())
        mood = Mood(setting["mood"])
        return (mood if self._chance.random() < setting["chance"] else Mood.WELL), setting["seconds"]

    def _hang(self) -> None:
        give_up = time.monotonic() + LONGEST_HANG
        while time.monotonic() < give_up and json.loads((self._directory / "mood.json").read_text())["mood"] == Mood.HANGING:
            time.sleep(0.05)


_CURRENT_CALL: contextvars.ContextVar[str | None] = contextvars.ContextVar("current_call", default=None)


@contextmanager
def _remembering(call: str) -> Iterator[None]:
    token = _CURRENT_CALL.set(call)
    try:
        yield
    finally:
        _CURRENT_CALL.reset(token)


def _append(file: int, what: What, **fields: Any) -> None:
    os.write(file, json.dumps({"at": time.time(), "what": what, **fields}).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # two agents of one name write it at a time
    partial.write_bytes(content)
    partial.replace(path)
