"""How an agent changes watchdogs and resumes servers in a simulated world, and what must be true of the devices in the end."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers import base, errors
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.simulation.hypervisor import MIGRATION, Guest, Hypervisor, LibraryBroke
from tests.simulation.kernel import Process

MODEL = WatchdogModel(
    model="i6300esb", expiry_actions=tuple(ExpiryAction), managed=True, hot_plug=True, note="Any server, also while it runs."
)
CHANGES = (ActionKind.SET_WATCHDOG, ActionKind.REMOVE_WATCHDOG)
_OF_CHANGES = ("action.started", "action.ended")


class Devices(base.Watchdogs):
    """Changes the machine and its configuration in steps, in an order that chance draws; at any of them the agent or the daemon may die."""

    def __init__(self, hypervisor: Hypervisor, process: Process, servers: base.Servers, chance: random.Random) -> None:
        self._hypervisor = hypervisor
        self._process = process
        self._servers = servers
        self._chance = chance

    def list_models(self) -> Sequence[WatchdogModel]:
        return (MODEL,)

    def get_watchdog(self, server: str) -> Watchdog:
        watchdog = self._servers.get_server(server).watchdog
        assert watchdog is not None
        return watchdog

    def set_watchdog(self, server: str, device: WatchdogDevice) -> Watchdog:
        return self._converge(server, device)

    def remove_watchdog(self, server: str) -> Watchdog:
        return self._converge(server, None)

    def _converge(self, server: str, device: WatchdogDevice | None) -> Watchdog:
        self._servers.get_server(server)
        guest = _find_guest(self._hypervisor, server)
        before = guest.configured, guest.watchdog
        parts = [self._plug, self._configure]
        self._chance.shuffle(parts)
        try:
            for part in parts:
                part(guest, device)
        except errors.BackendUnavailable as error:
            if (guest.configured, guest.watchdog) == before:
                raise
            self._put_back(guest, before, error)
        return self.get_watchdog(server)

    def _put_back(
        self, guest: Guest, before: tuple[WatchdogDevice | None, WatchdogDevice | None], error: errors.BackendUnavailable
    ) -> None:
        configured, live = before
        try:
            self._plug(guest, live)
            self._configure(guest, configured)
        except errors.BackendUnavailable as second:
            raise errors.OutcomeUnknown(guest.id, f"{error.reason}; {second.reason}") from second
        raise errors.BackendUnavailable(guest.id, f"{error.reason}; it has what it had", Code.WATCHDOG_NOT_CHANGED) from error

    def _plug(self, guest: Guest, device: WatchdogDevice | None) -> None:
        if guest.watchdog == device or guest.state is PowerState.SHUTDOWN:
            return
        if guest.watchdog is not None:
            self._step(guest, "detach", lambda: _set_live(guest, None))
        if device is not None:
            self._step(guest, f"attach {device.expiry_action}", lambda: _set_live(guest, device))

    def _configure(self, guest: Guest, device: WatchdogDevice | None) -> None:
        if guest.configured != device:
            action = None if device is None else device.expiry_action
            self._step(guest, f"configure {action}", lambda: setattr(guest, "configured", device))

    def _step(self, guest: Guest, what: str, act: Callable[[], None]) -> None:
        hypervisor, chance, faults = self._hypervisor, self._chance, self._hypervisor.faults
        slow = chance.random() < faults.slow
        takes = chance.uniform(0.5, 8.0) if slow else faults.latency * chance.uniform(0.2, 1.0)
        hypervisor.kernel.sleep(takes * chance.random())
        self._process.check()
        _find_guest(hypervisor, guest.id)
        if not hypervisor.up or chance.random() < faults.unavailable / 2:
            raise errors.BackendUnavailable(guest.id, f"the daemon said no to {what}", Code.WATCHDOG_NOT_CHANGED)
        act()
        hypervisor.kernel.note(hypervisor.host, f"guest {guest.name}: {what}")
        hypervisor.tell(DriverEvent(DriverEventKind.DEFINED, guest.id, hypervisor.clock.now(), "device"))
        hypervisor.kernel.sleep(takes * chance.random())
        self._process.check()
        fate = chance.random()
        if fate < faults.answer_lost / 2:
            raise errors.OutcomeUnknown(guest.id, f"no answer to {what}")
        if fate < (faults.answer_lost + faults.undeclared) / 2:
            raise LibraryBroke("an error that the driver does not declare")


class Resuming(base.Resume):
    """Resumes a paused guest, in a moment at which the agent may die."""

    def __init__(self, hypervisor: Hypervisor, process: Process, servers: base.Servers, chance: random.Random) -> None:
        self._hypervisor = hypervisor
        self._process = process
        self._servers = servers
        self._chance = chance

    def resume_server(self, server: str) -> None:
        power_state = self._servers.get_server(server).power_state
        if power_state not in (PowerState.PAUSED, PowerState.RUNNING):
            raise errors.ServerNotRunning(server, f"guest is {power_state}")
        guest = _find_guest(self._hypervisor, server)
        if guest.reason == MIGRATION:
            raise errors.ServerNotRunning(server, "it is paused for its migration")
        self._hypervisor.resume(guest)
        self._hypervisor.kernel.sleep(self._hypervisor.faults.latency)
        self._process.check()
        if self._chance.random() < self._hypervisor.faults.answer_lost:
            raise errors.OutcomeUnknown(server, "no answer came")


def _find_guest(hypervisor: Hypervisor, server: str) -> Guest:
    """:raises ServerNotFound: it is not here any more."""
    guest = hypervisor.guests.get(server)
    if guest is None:
        raise errors.ServerNotFound(server, "it has migrated")
    return guest


def _set_live(guest: Guest, device: WatchdogDevice | None) -> None:
    if guest.state is not PowerState.SHUTDOWN:
        guest.watchdog = device


def draw_change(chance: random.Random) -> tuple[ActionKind, dict[str, Any]]:
    """What somebody asks for: its kind and arguments."""
    if chance.random() < 0.3:
        return ActionKind.REMOVE_WATCHDOG, {}
    device = WatchdogDevice(model=MODEL.model, expiry_action=chance.choice(MODEL.expiry_actions))
    return ActionKind.SET_WATCHDOG, {"watchdog": device.to_wire(), "replace": chance.random() < 0.8}


# What must be true


def check_devices(guests: list[Guest], events: list[dict[str, Any]], arguments: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Never none: what a guest has at the end is what the endings say, one after the other, and it has it live and configured. Where
    somebody restarted it in the middle of a change it may have the former device until its next start, if that was told. What is begun
    and waits for a call that does not come back is unknown, as the gateway says.

    :param guests: those whose journals and definitions were never lost
    :param arguments: what each action was asked for with
    """
    possible: dict[str, set[WatchdogDevice | None]] = {guest.id: {guest.first} for guest in guests}
    unclear = set()
    begun: dict[str, tuple[str, WatchdogDevice | None]] = {}
    told: dict[str, Watchdog] = {}
    for event in sorted(events, key=lambda event: (event["epoch"], event["sequence"] or 0)):
        payload = json.loads(event["payload"])
        if event["event_type"] == "server.watchdog.changed":
            told[event["server"]] = Watchdog.from_wire(payload["watchdog"])
        if event["event_type"] not in _OF_CHANGES or event["server"] not in possible or payload["kind"] not in CHANGES:
            continue
        wanted = _find_wanted(payload["kind"], arguments[payload["action_id"]])
        if event["event_type"] == "action.started":
            begun[payload["action_id"]] = event["server"], wanted
            continue
        if payload["decided_by"] != "agent":
            continue
        begun.pop(payload["action_id"], None)
        if payload["ending"] == Ending.SUCCEEDED:
            possible[event["server"]] = {wanted}
        elif payload["ending"] == Ending.UNKNOWN:
            possible[event["server"]].add(wanted)
            unclear.add(event["server"])
    held = _list_held(guests, events)
    for server, wanted in begun.values():
        if server in held:
            possible[server].add(wanted)
            unclear.add(server)
    for guest in guests:
        if guest.configured not in possible[guest.id]:
            yield f"guest {guest.name} has {guest.configured} configured, by the endings it can only have {possible[guest.id]}"
        last = told.get(guest.id)
        is_told = last is not None and (last.live, last.configured) == (guest.watchdog, guest.configured)
        if guest.state is not PowerState.SHUTDOWN and guest.watchdog != guest.configured and not is_told and guest.id not in unclear:
            yield f"guest {guest.name} has {guest.watchdog} live and {guest.configured} configured"
    drifted = defaultdict(int)
    for event in events:
        drifted[event["server"]] += event["event_type"] == "server.watchdog.drifted"
    for guest in guests:
        if drifted[guest.id] and guest.id not in unclear:
            yield f"guest {guest.name}: {drifted[guest.id]} changes by somebody else were told of, and there was nobody else"


def _list_held(guests: list[Guest], events: list[dict[str, Any]]) -> set[str]:
    """Those of which the present life of their host's agent does nothing more, because a call that it made has not come back."""
    incarnations: dict[str, int] = defaultdict(int)
    for event in events:
        if event["event_type"] == "agent.up":
            incarnations[event["epoch"]] = max(incarnations[event["epoch"]], json.loads(event["payload"])["incarnation"])
    lives = {f"{journal}/{incarnation}" for journal, incarnation in incarnations.items()}
    calls = [call for guest in guests for call in guest.home.calls if call.server == guest.id]
    return {call.server for call in calls if call.ended_at is None and call.life in lives}


def _find_wanted(kind: str, arguments: Mapping[str, Any]) -> WatchdogDevice | None:
    if kind == ActionKind.REMOVE_WATCHDOG:
        return None
    return WatchdogDevice.from_wire(arguments["watchdog"])
