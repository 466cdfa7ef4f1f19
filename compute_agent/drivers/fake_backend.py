"""The backend behind the fake driver: servers with power states, a signal counter each, and ways to fail on purpose.

It is told what happens to its servers and reports it as events, at once and in the caller's thread; it never sleeps.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import Flavor, PowerState
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.errors import ServerNotRunning
from compute_agent.drivers.fake_behaviours import Behaviour
from compute_agent.drivers.fake_devices import is_plugged, make_watchdog
from compute_agent.drivers.fake_diagnostics import count_work
from compute_agent.drivers.fake_log import FakeLog
from compute_agent.drivers.fake_reports import FakeReports
from compute_agent.drivers.fake_server import (
    DUMP,
    Call,
    FakeServer,
    NmiEffect,
    describe_fake,
    describe_hardware,
    inspect_fake,
    write_dump,
)
from compute_agent.drivers.models import CollectedDiagnostics, DriverEventKind, DriverServer, FoundDump, InspectedServer

COUNTDOWN = 60.0
"""Seconds that the watchdog of a fake server counts until it fires, once it is fed from outside."""
_NAMESPACE = uuid.UUID("6f1d7c1e-6f0b-5e0e-9a55-0c0ffee0dead")


class FakeBackend(FakeReports):
    """Every method may be called from any thread; ids are those that the methods returned."""

    def __init__(self, clock: Clock, *, seed: str = "fake") -> None:
        super().__init__(clock)
        self._seed = seed
        self._made = 0

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
        watchdog: WatchdogDevice | None = None,
        bare_metal: bool = False,
        unread: str = "",
    ) -> str:
        """Define one more server and return its id, which only depends on the seed and on how many were made before.

        :param bare_metal: its platform knows its power alone, keeps a log of it, and tells there that its operating system has panicked
        :param unread: why nobody could read it yet; :meth:`restore_server` ends that
        """
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
                watchdog=make_watchdog(watchdog, watchdog, is_off=power_state is PowerState.SHUTDOWN),
            )
            running_since = None if power_state is PowerState.SHUTDOWN else self._clock.monotonic()
            log = FakeLog() if bare_metal else None
            self._servers[seen.id] = FakeServer(seen, effect, log, lost=unread, running_since=running_since)
            self._emit(DriverEventKind.DEFINED, seen.id, "defined", always=True)
            self._tell_log(seen.id)
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

    def change_device(self, server: str, *, configured: WatchdogDevice | None, live: WatchdogDevice | None) -> None:
        """It has these watchdogs from now on, whoever did that, and whoever listens is told to look."""
        with self._lock:
            fake = self._get(server)
            had = fake.seen.watchdog or make_watchdog()
            is_off = fake.seen.power_state is PowerState.SHUTDOWN
            has = make_watchdog(configured, live, is_off=is_off, persistent=fake.seen.persistent, others=had.others, models=had.models)
            fake.free_slots += is_plugged(had.live) - is_plugged(has.live)
            fake.seen = replace(fake.seen, watchdog=has)
            self._emit(DriverEventKind.DEFINED, server, "device")

    def fill_slots(self, server: str) -> None:
        """From now on nothing can be plugged in while it runs, except in place of what is plugged in."""
        with self._lock:
            self._get(server).free_slots = 0

    def write_expiry_dump(self, server: str, path: str, size: int) -> None:
        """The platform has written its memory because its watchdog fired."""
        with self._lock:
            self._get(server).expiry_dumps.append((self._clock.now(), FoundDump(path, size)))

    def fire_watchdog(self, server: str, *, heeded: bool = True) -> None:
        """Its watchdog is not fed in time; what its expiry action leads to follows at once. That of a machine that stands still does not.

        :param heeded: False: the guest does not listen when it is to shut down, or the platform cannot write its memory
        """
        with self._lock:
            fake = self._get(server)
            device = None if fake.seen.watchdog is None else fake.seen.watchdog.live
            if device is None or fake.seen.power_state is not PowerState.RUNNING:
                return
            action = device.expiry_action
            # As libvirt does: a dump is called a pause.
            word = ExpiryAction.PAUSE if action == ExpiryAction.DUMP else action
            self._note(server, DriverEventKind.WATCHDOG_FIRED, word)
            if action == ExpiryAction.RESET:
                self.reboot(server)
                self.reboot(server)
            elif action == ExpiryAction.POWER_CYCLE:
                self.stop(server)
                self.start(server)
            elif action == ExpiryAction.POWEROFF:
                self._move(server, PowerState.SHUTDOWN, DriverEventKind.STOPPED, "failed", started_at=None)
            elif action == ExpiryAction.SHUTDOWN and heeded:
                self._move(server, PowerState.SHUTDOWN, DriverEventKind.STOPPED, "shutdown", started_at=None)
            elif action in (ExpiryAction.PAUSE, ExpiryAction.DUMP):
                self._move(server, PowerState.PAUSED, DriverEventKind.PAUSED, "watchdog")
            if action == ExpiryAction.DUMP:
                if heeded:
                    self.write_expiry_dump(server, f"/var/lib/fake/{server}-{len(fake.expiry_dumps) + 1}", len(DUMP))
                self.resume(server)
            elif action == ExpiryAction.INJECT_NMI:
                self._take_effect(server)

    def arm_timer(self, server: str) -> None:
        """It counts from its beginning now."""
        with self._lock:
            self._get(server).expires_at = self._clock.monotonic() + COUNTDOWN

    def run_timers(self) -> None:
        """Those watchdogs fire that were armed from outside and not fed again in time."""
        with self._lock:
            now = self._clock.monotonic()
            due = [name for name, fake in self._servers.items() if fake.expires_at is not None and fake.expires_at <= now]
            for server in due:
                self._get(server).expires_at = None
                self.fire_watchdog(server)

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
        """Bare metal is still switched on then, for all that its platform knows."""
        with self._lock:
            if self._get(server).log is None:
                self._move(server, PowerState.CRASHED, DriverEventKind.PANICKED, "panicked")
            else:
                self.write_log(server, DriverEventKind.PANICKED, "os_critical_stop", PowerState.RUNNING)

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

    # What the driver does with it

    def list_servers(self) -> list[DriverServer]:
        with self._lock:
            self._check_available()
            return [describe_fake(fake) for fake in self._servers.values()]

    def get_server(self, server: str) -> DriverServer:
        with self._lock:
            return self._get_readable(server).seen

    def inject_nmi(self, server: str) -> None:
        with self._lock:
            fake = self._get_readable(server)
            if fake.seen.power_state in (PowerState.SHUTDOWN, PowerState.CRASHED):
                raise ServerNotRunning(server, f"the server is {fake.seen.power_state}")
        self.perform(server, Call.INJECT_NMI, lambda: self._deliver(server))

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        self.perform(server, Call.COLLECT_DIAGNOSTICS, lambda: None)
        with self._lock:
            return self._count(self._get(server))

    def sample_servers(self) -> list[CollectedDiagnostics]:
        with self._lock:
            self._check_available()
            running = [fake for fake in self._servers.values() if fake.seen.power_state is not PowerState.SHUTDOWN]
            return [self._count(fake) for fake in running if not fake.busy and not fake.lost]

    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        with self._lock:
            fake = self._get_readable(server)
            if fake.seen.power_state is PowerState.SHUTDOWN:
                raise ServerNotRunning(server, "the server is shutdown")
        self.perform(server, Call.TAKE_HOST_DUMP, lambda: write_dump(server, path, on_progress))

    def resume_server(self, server: str) -> None:
        with self._lock:
            power_state = self._get_readable(server).seen.power_state
        if power_state not in (PowerState.PAUSED, PowerState.RUNNING):
            raise ServerNotRunning(server, f"the server is {power_state}")
        self.perform(server, Call.RESUME, lambda: self.resume(server) if power_state is PowerState.PAUSED else None)

    def has_free_slot(self, server: str) -> bool:
        with self._lock:
            return self._get(server).free_slots > 0

    def find_expiry_dump(self, server: str, since: datetime, until: datetime | None) -> FoundDump | None:
        with self._lock:
            self._check_available()
            fake = self._servers.get(server)
            dumps = [] if fake is None else fake.expiry_dumps
            found = [dump for began_at, dump in dumps if since <= began_at and (until is None or began_at < until)]
            return found[-1] if found else None

    def inspect_server(self, server: str) -> InspectedServer:
        with self._lock:
            return inspect_fake(self._get_readable(server))

    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        with self._lock:
            console = self._get_readable(server).console
            return None if console is None else console[max(0, len(console) - limit) :]

    def perform(self, server: str, call: Call, deliver: Callable[[], None]) -> None:
        """Do it, or what is to be done instead. Outside the lock: a hanging call must not stop the rest of the host.

        :raises ServerNotFound, BackendUnavailable: nothing was done.
        """
        with self._lock:
            waiting = self._get_readable(server).behaviours[call]
            behave = waiting.popleft() if waiting else None
        if behave is None:
            deliver()
        else:
            behave(deliver)

    def _count(self, fake: FakeServer) -> CollectedDiagnostics:
        word = {} if fake.log is None else {"driver_word": "ironic", "hypervisor": None, "hardware": describe_hardware(fake)}
        return count_work(fake.seen, fake.running_since, self._clock, **{**word, **fake.counters})

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
            has = fake.seen.watchdog or make_watchdog()
            is_off = power_state is PowerState.SHUTDOWN
            live = has.configured if kind is DriverEventKind.STARTED else has.live
            persistent = fake.seen.persistent
            watchdog = make_watchdog(has.configured, live, is_off=is_off, persistent=persistent, others=has.others, models=has.models)
            fake.seen = replace(
                fake.seen,
                power_state=power_state,
                state_reason=reason,
                watchdog=watchdog,
                **times,  # type: ignore[arg-type]
            )
            if power_state in (PowerState.SHUTDOWN, PowerState.CRASHED):
                fake.pending_nmi, fake.expires_at = False, None
            self._emit(kind, server, reason)  # under the lock: events come in the order of the changes
