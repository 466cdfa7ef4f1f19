"""A complete in-memory driver: for load tests of a whole fleet, for development without a hypervisor, and for the unit tests.

:class:`FakeHypervisor` is the backend: servers with power states, a signal counter each, and ways to fail on purpose
(``fake_behaviours``). It is told what happens to its servers and reports it as events, at once and in the caller's thread; it
never sleeps. The driver over it passes the same conformance suite as every other one.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import Flavor, PowerState
from compute_agent.drivers.base import (
    BackendUnavailable,
    CollectedDiagnostics,
    DiagnosticsSource,
    Driver,
    DriverEvent,
    DriverEventKind,
    DriverServer,
    Events,
    HostDump,
    InspectedServer,
    Inspection,
    Lifecycle,
    Nmi,
    ServerNotFound,
    ServerNotRunning,
    Servers,
)
from compute_agent.drivers.fake_behaviours import Behaviour
from compute_agent.drivers.fake_diagnostics import count_work
from compute_agent.drivers.fake_server import Call, FakeServer, NmiEffect, inspect_fake, write_dump

GROUP = "fake"
OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt("servers", default=2, min=0, help="How many running servers the fake hypervisor has from the start."),
    cfg.IntOpt("surviving", default=0, min=0, help="How many of them survive an NMI without a sign; the others panic."),
    cfg.StrOpt("seed", default="fake", help="Server ids are made from it: the same seed gives the same ids. Give each agent its own."),
    cfg.FloatOpt("call_bound", default=5.0, min=0.0, help="Seconds after which the outcome of a begun call is unknown."),
]

_NAMESPACE = uuid.UUID("6f1d7c1e-6f0b-5e0e-9a55-0c0ffee0dead")


class FakeHypervisor:
    """The backend. Every method may be called from any thread; ids are those that the methods returned."""

    def __init__(self, clock: Clock, *, seed: str = "fake", call_bound: float = 5.0) -> None:
        self._clock = clock
        self._seed = seed
        self._lock = threading.RLock()
        self._servers: dict[str, FakeServer] = {}
        self._made = 0
        self._available = True
        self._open = False
        self._listener: Callable[[DriverEvent], None] | None = None
        self.driver = Driver(
            name="fake",
            servers=_FakeServers(self),
            call_bound=call_bound,
            nmi=_FakeNmi(self),
            diagnostics=_FakeDiagnostics(self),
            host_dump=_FakeHostDump(self),
            inspection=_FakeInspection(self),
            events=_FakeEvents(self),
            lifecycle=_FakeLifecycle(self),
        )

    # What happens to servers

    def make_server(
        self,
        *,
        power_state: PowerState = PowerState.RUNNING,
        effect: NmiEffect = NmiEffect.PANIC,
        project: str | None = None,
        user: str | None = None,
        description: str | None = None,
        flavor: Flavor | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Define one more server and return its id, which only depends on the seed and on how many were made before."""
        with self._lock:
            self._made += 1
            name = f"{self._seed}-{self._made}"
            started_at = None if power_state is PowerState.SHUTDOWN else self._clock.now()
            seen = DriverServer(
                id=str(uuid.uuid5(_NAMESPACE, name)),
                name=name,
                project=project,
                user=user,
                instance_name=f"fake-{self._made:08x}",
                power_state=power_state,
                state_reason="made",
                vcpus=1,
                memory_mib=128,
                started_at=started_at,
                description=description,
                flavor=flavor,
                tags=tuple(tags),
            )
            running_since = None if power_state is PowerState.SHUTDOWN else self._clock.monotonic()
            self._servers[seen.id] = FakeServer(seen, effect, running_since=running_since)
        self._emit(DriverEventKind.DEFINED, seen.id, "defined")
        return seen.id

    def change(self, server: str, **fields: object) -> None:
        """Change what the driver sees of a server (``name``, ``arriving``, …) without an event."""
        with self._lock:
            fake = self._get(server)
            fake.seen = replace(fake.seen, **fields)  # type: ignore[arg-type]

    def count(self, server: str, **fields: Any) -> None:
        """From now on its readings have these fields of :class:`CollectedDiagnostics` as given, ``memory_used_kib=None`` say."""
        with self._lock:
            self._get(server).counters.update(fields)

    def write_console(self, server: str, text: bytes) -> None:
        """From now on this is the log of its console."""
        with self._lock:
            self._get(server).console = text

    def set_busy(self, server: str, busy: bool) -> None:
        """A busy server is left out when all are sampled."""
        with self._lock:
            self._get(server).busy = busy

    def start(self, server: str) -> None:
        with self._lock:
            self._get(server).running_since = self._clock.monotonic()
            self._move(server, PowerState.RUNNING, DriverEventKind.STARTED, "booted", started_at=self._clock.now())

    def stop(self, server: str) -> None:
        self._move(server, PowerState.SHUTDOWN, DriverEventKind.STOPPED, "destroyed", started_at=None)

    def pause(self, server: str) -> None:
        self._move(server, PowerState.PAUSED, DriverEventKind.PAUSED, "paused")

    def resume(self, server: str) -> None:
        """An NMI that was handed to the paused server fires now."""
        self._move(server, PowerState.RUNNING, DriverEventKind.RESUMED, "resumed")
        with self._lock:
            fake = self._get(server)
            fires, fake.pending_nmi = fake.pending_nmi, False
        if fires:
            self._take_effect(server)

    def reboot(self, server: str) -> None:
        self._move(server, PowerState.RUNNING, DriverEventKind.REBOOTED, "reset")

    def panic(self, server: str) -> None:
        self._move(server, PowerState.CRASHED, DriverEventKind.PANICKED, "panicked")

    def remove(self, server: str, *, migrated: bool = False) -> None:
        """Undefine it, or let it leave for another host."""
        with self._lock:
            self._get(server)
            del self._servers[server]
        kind = DriverEventKind.MIGRATED_AWAY if migrated else DriverEventKind.UNDEFINED
        self._emit(kind, server, "migrated" if migrated else "undefined")

    def behave(self, server: str, *behaviours: Behaviour, call: Call = Call.INJECT_NMI) -> None:
        """Its next calls of this kind go like this, one each; those after them as always."""
        with self._lock:
            self._get(server).behaviours[call].extend(behaviours)

    def count_signals(self, server: str) -> int:
        """How many NMIs were delivered to it, pending ones too."""
        with self._lock:
            return self._get(server).signals

    # The backend itself

    def lose_backend(self) -> None:
        """Until :meth:`restore_backend` every call fails and nothing that happens is reported."""
        with self._lock:
            self._emit(DriverEventKind.BACKEND_LOST, None, "lost")
            self._available = False

    def restore_backend(self) -> None:
        with self._lock:
            self._available = True
        self._emit(DriverEventKind.BACKEND_BACK, None, "back")

    # What the driver does with it

    def open(self) -> None:
        with self._lock:
            self._open = True
        self._emit(DriverEventKind.BACKEND_BACK, None, "connected")

    def close(self) -> None:
        with self._lock:
            self._open = False

    def subscribe(self, listener: Callable[[DriverEvent], None]) -> None:
        with self._lock:
            self._listener = listener

    def list_servers(self) -> list[DriverServer]:
        with self._lock:
            self._check_available()
            return [fake.seen for fake in self._servers.values()]

    def get_server(self, server: str) -> DriverServer:
        with self._lock:
            self._check_available()
            return self._get(server).seen

    def inject_nmi(self, server: str) -> None:
        with self._lock:
            self._check_available()
            fake = self._get(server)
            if fake.seen.power_state in (PowerState.SHUTDOWN, PowerState.CRASHED):
                raise ServerNotRunning(server, f"the server is {fake.seen.power_state}")
        self._behave(fake, Call.INJECT_NMI, lambda: self._deliver(server))

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        with self._lock:
            self._check_available()
            fake = self._get(server)
        self._behave(fake, Call.COLLECT_DIAGNOSTICS, lambda: None)
        with self._lock:
            return self._count(self._get(server))

    def sample_servers(self) -> list[CollectedDiagnostics]:
        with self._lock:
            self._check_available()
            running = [fake for fake in self._servers.values() if fake.seen.power_state is not PowerState.SHUTDOWN]
            return [self._count(fake) for fake in running if not fake.busy]

    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        with self._lock:
            self._check_available()
            fake = self._get(server)
            if fake.seen.power_state is PowerState.SHUTDOWN:
                raise ServerNotRunning(server, "the server is shutdown")
        self._behave(fake, Call.TAKE_HOST_DUMP, lambda: write_dump(server, path, on_progress))

    def inspect_server(self, server: str) -> InspectedServer:
        with self._lock:
            self._check_available()
            return inspect_fake(self._get(server))

    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        with self._lock:
            self._check_available()
            console = self._get(server).console
            return None if console is None else console[max(0, len(console) - limit) :]

    def _count(self, fake: FakeServer) -> CollectedDiagnostics:
        return count_work(fake.seen, fake.running_since, self._clock, **fake.counters)

    def _behave(self, fake: FakeServer, call: Call, deliver: Callable[[], None]) -> None:
        """Do it, or what is to be done instead. Outside the lock: a hanging call must not stop the rest of the host."""
        with self._lock:
            waiting = fake.behaviours[call]
            behave = waiting.popleft() if waiting else None
        if behave is None:
            deliver()
        else:
            behave(deliver)

    def _deliver(self, server: str) -> None:
        with self._lock:
            fake = self._get(server)
            fake.signals += 1
            if fake.seen.power_state is PowerState.PAUSED:
                fake.pending_nmi = True
                return
        self._take_effect(server)

    def _take_effect(self, server: str) -> None:
        with self._lock:
            effect = self._get(server).effect
        if effect is NmiEffect.PANIC:
            self.panic(server)
        elif effect is NmiEffect.CRASH_KERNEL:
            self._emit(DriverEventKind.CRASH_KERNEL_STARTED, server, "crash kernel loaded")

    def _move(self, server: str, power_state: PowerState, kind: DriverEventKind, reason: str, **times: datetime | None) -> None:
        with self._lock:
            fake = self._get(server)
            fake.seen = replace(fake.seen, power_state=power_state, state_reason=reason, **times)  # type: ignore[arg-type]
            if power_state in (PowerState.SHUTDOWN, PowerState.CRASHED):
                fake.pending_nmi = False
            self._emit(kind, server, reason)  # under the lock: events come in the order of the changes

    def _emit(self, kind: DriverEventKind, server: str | None, reason: str) -> None:
        with self._lock:
            if self._open and self._available and self._listener is not None:
                self._listener(DriverEvent(kind, server, self._clock.now(), reason))

    def _get(self, server: str) -> FakeServer:
        fake = self._servers.get(server)
        if fake is None:
            raise ServerNotFound(server, f"no server {server} on this host")
        return fake

    def _check_available(self) -> None:
        if not self._available:
            raise BackendUnavailable(None, "the fake backend is away")


class _FakeServers(Servers):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def list_servers(self) -> Sequence[DriverServer]:
        return self._hypervisor.list_servers()

    def get_server(self, server: str) -> DriverServer:
        return self._hypervisor.get_server(server)


class _FakeNmi(Nmi):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def inject_nmi(self, server: str) -> None:
        self._hypervisor.inject_nmi(server)


class _FakeDiagnostics(DiagnosticsSource):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        return self._hypervisor.collect_diagnostics(server)

    def sample_servers(self) -> Sequence[CollectedDiagnostics]:
        return self._hypervisor.sample_servers()


class _FakeHostDump(HostDump):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        self._hypervisor.take_host_dump(server, path, on_progress)


class _FakeInspection(Inspection):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def inspect_server(self, server: str) -> InspectedServer:
        return self._hypervisor.inspect_server(server)

    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        return self._hypervisor.read_console_tail(server, limit)


class _FakeEvents(Events):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def subscribe(self, listener: Callable[[DriverEvent], None]) -> None:
        self._hypervisor.subscribe(listener)


class _FakeLifecycle(Lifecycle):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def open(self) -> None:
        self._hypervisor.open()

    def close(self) -> None:
        self._hypervisor.close()


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register the group on ``conf``; may be called more than once."""
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For the generated configuration reference."""
    return [(GROUP, OPTIONS)]


def create_driver(conf: cfg.ConfigOpts, clock: Clock) -> Driver:
    """The driver over a hypervisor with as many servers as ``conf`` wants; the last ``surviving`` of them take every NMI."""
    register_options(conf)
    group = conf[GROUP]
    hypervisor = FakeHypervisor(clock, seed=group.seed, call_bound=group.call_bound)
    for number in range(group.servers):
        survives = number >= group.servers - group.surviving
        hypervisor.make_server(effect=NmiEffect.SURVIVE if survives else NmiEffect.PANIC)
    return hypervisor.driver
