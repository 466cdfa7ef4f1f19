"""The guests' watchdogs: what firing one does to a guest, what of it is told, and what must be true of that in the end."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from compute_agent.contract.models import ActionKind, PowerState
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.models import DriverEvent, DriverEventKind, FoundDump
from tests.simulation.hypervisor import Guest, Hypervisor
from tests.simulation.kernel import Process

_FIRED, _OUTCOME = "server.watchdog.fired", "server.watchdog.outcome"
_MOMENT = timedelta(seconds=20)
"""Within which a comparison may have told a firing before its own event was taken."""


_TWICE = (ExpiryAction.DUMP,)
"""What more guests have, because nothing else leads to a search for a file."""
_OF_BARE_METAL = (ExpiryAction.NONE, ExpiryAction.RESET, ExpiryAction.POWEROFF, ExpiryAction.POWER_CYCLE, ExpiryAction.INJECT_NMI)


@dataclass(frozen=True)
class ToldFiring:
    """A firing that the hypervisor told to a life of an agent, which had been frozen for so long then."""

    server: str
    at: datetime
    listener: Process
    held_up: timedelta


class Watchdogs:
    """Those of one hypervisor's guests.

    ``nmis``: when they injected one, in virtual seconds, by guest and the time by its host's clock, which may be set meanwhile
    """

    def __init__(self, hypervisor: Hypervisor, chance: random.Random) -> None:
        self.told: list[ToldFiring] = []
        self.nmis: dict[tuple[str, datetime], float] = {}
        self._hypervisor = hypervisor
        self._chance = chance
        for guest in hypervisor.guests.values():
            actions = (*ExpiryAction, *_TWICE) if guest.log is None else _OF_BARE_METAL
            guest.watchdog = WatchdogDevice(model="i6300esb", expiry_action=chance.choice(actions))

    def fire(self, guest: Guest, listener: Process) -> None:
        """That of one guest; one that does not run feeds and starves nothing."""
        if guest.watchdog is not None and guest.defined and guest.state is PowerState.RUNNING:
            self._fire(guest, guest.watchdog.expiry_action, listener)

    def _fire(self, guest: Guest, action: str, listener: Process) -> None:
        hypervisor, chance = self._hypervisor, self._chance
        at = hypervisor.clock.now()
        if guest.log is None and hypervisor.up and listener.alive and hypervisor.is_listening(listener):
            held_up = timedelta(seconds=hypervisor.kernel.find_held_up(listener))
            self.told.append(ToldFiring(guest.id, at, listener, held_up))
        hypervisor.kernel.note(hypervisor.host, f"guest {guest.name}: its watchdog fires, {action}")
        word = ExpiryAction.PAUSE if action == ExpiryAction.DUMP else action
        hypervisor.report(guest, DriverEvent(DriverEventKind.WATCHDOG_FIRED, guest.id, at, word))
        if action == ExpiryAction.RESET:
            for seconds in (0.005, 0.1):  # one reboot is told more than once
                hypervisor.kernel.call_after(seconds, lambda: guest.home.reboot(guest))
        elif action == ExpiryAction.POWER_CYCLE:
            hypervisor.call_in_this_run(guest, 0.003, lambda: guest.home.stop(guest))
            hypervisor.kernel.call_after(2.0, lambda: guest.home.start(guest) if guest.defined else None)
        elif action == ExpiryAction.POWEROFF:
            hypervisor.call_in_this_run(guest, 0.003, lambda: guest.home.stop(guest))
        elif action == ExpiryAction.SHUTDOWN and guest.takes != "deaf":
            hypervisor.call_in_this_run(guest, chance.uniform(0.5, 12.0), lambda: guest.home.stop(guest))
        elif action == ExpiryAction.INJECT_NMI:
            self.nmis[guest.id, at] = hypervisor.kernel.time
            hypervisor.answer_nmi(guest)
        elif action in (ExpiryAction.PAUSE, ExpiryAction.DUMP):
            hypervisor.set_state(guest, PowerState.PAUSED, DriverEventKind.PAUSED, "watchdog")
        if action == ExpiryAction.DUMP:
            hypervisor.kernel.call_after(chance.choice((0.01, 1.0, 20.0)), lambda: self._end_dump(guest, at))

    def _end_dump(self, guest: Guest, began_at: datetime) -> None:
        if guest.state is not PowerState.PAUSED:
            return
        if self._chance.random() < 0.8:
            path = f"/dumps/{guest.name}-{len(guest.dumps) + 1}"
            guest.dumps.append((began_at, FoundDump(path, 4096)))
        guest.home.resume(guest)


# What must be true


def check_firings(
    watchdogs: Sequence[Watchdogs],
    guests: dict[str, Guest],
    events: list[dict[str, Any]],
    lost_epochs: set[str],
) -> Iterator[str]:
    """Each firing in a journal that still is has one outcome, each outcome a firing; and who lives and was told has told it."""
    fired = {event["message_id"]: event for event in events if event["event_type"] == _FIRED}
    outcomes = defaultdict(list)
    for event in events:
        if event["event_type"] == _OUTCOME:
            outcomes[json.loads(event["payload"])["fired_event"]].append(event)
    for message_id, event in fired.items():
        count = len(outcomes.get(message_id, ()))
        if count > 1 or (count == 0 and event["epoch"] not in lost_epochs):
            yield f"the firing {event['sequence']} of {event['epoch']} has {count} outcomes"
    for message_id, told in outcomes.items():
        cause = fired.get(message_id)
        if cause is None and told[0]["epoch"] not in lost_epochs:
            yield f"there is an outcome of the firing {message_id}, which was never recorded"
        if cause is not None:
            yield from _check_outcome(json.loads(cause["payload"]), json.loads(told[0]["payload"]), guests)
    yield from _check_ledger(watchdogs, fired)


def _check_outcome(fired: dict[str, Any], outcome: dict[str, Any], guests: dict[str, Guest]) -> Iterator[str]:
    where = f"the outcome {outcome['sequence']} of {outcome['epoch']}"
    guest = guests[fired["server"]]
    if outcome["server"] != fired["server"] or outcome["epoch"] != fired["epoch"] or outcome["sequence"] <= fired["sequence"]:
        yield f"{where} is not that of its firing"
    told, known = fired["driver_word"], fired["expiry_action"]
    # What the server is known to have may be changed between the firing and its record; and "pause" is said of a dump too.
    is_dump = told == ExpiryAction.PAUSE and known == ExpiryAction.DUMP
    action = told if told in tuple(ExpiryAction) and not is_dump else known or told
    if (action == ExpiryAction.NONE) != (outcome["result"] == "continued") and action != ExpiryAction.PAUSE:
        yield f"{where} is {outcome['result']} of {fired['expiry_action']}"
    if outcome["result"] == "rebooted" and not guest.resets:
        yield f"{where} is a reboot that never was"
    if outcome["result"] == "dumped" and outcome["dump_path"] not in {dump.path for _, dump in guest.dumps}:
        yield f"{where} names the file {outcome['dump_path']}, which is not there"


def _check_ledger(watchdogs: Sequence[Watchdogs], fired: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What was told to a life that never ended is recorded, or was found by a comparison a moment before.

    A comparison tells what it finds as of its beginning: one in which the agent is frozen finds what happened while it was.
    """
    recorded = defaultdict(list)
    for event in fired.values():
        payload = json.loads(event["payload"])
        recorded[payload["server"]].append((datetime.fromisoformat(payload["occurred_at"]), payload["observed_late"]))
    for told in [each for host in watchdogs for each in host.told if each.listener.alive]:
        found = recorded[told.server]
        earliest, latest = told.at - _MOMENT - told.held_up, told.at + _MOMENT
        if not any(at == told.at or (late and earliest <= at <= latest) for at, late in found):
            yield f"a firing of {told.server} at {told.at} was told to a living agent and never recorded"


def check_holdoff_after_firings(
    events: list[dict[str, Any]],
    forced: Collection[str],
    was_reset: Callable[[str, datetime, str], bool],
    holdoff: float,
    tolerance: float,
) -> Iterator[str]:
    """No crash dump is begun after a watchdog's NMI in the same journal, within the hold-off, unless the server was reset between them.

    :param was_reset: whether a server was, between an NMI of then by its host's clock and an action's call. That is not always an event:
        one that is found paused after it was started anew unseen is told as paused
    """
    nmis: dict[tuple[str, str], tuple[datetime, str]] = {}
    for event in sorted(events, key=lambda event: (event["epoch"], event["sequence"] or 0)):
        payload = json.loads(event["payload"])
        place = event["epoch"], event["server"]
        at = datetime.fromisoformat(payload["occurred_at"])
        if event["event_type"] == _FIRED and payload["driver_word"] == ExpiryAction.INJECT_NMI:
            nmis[place] = at, event["message_id"]
        elif event["event_type"] in ("server.rebooted", "server.stopped", "server.started"):
            nmis.pop(place, None)
        elif event["event_type"] == "action.started" and place in nmis and payload["kind"] == ActionKind.TRIGGER_CRASH_DUMP:
            fired_at, message_id = nmis[place]
            action, elapsed = event["action_id"], (at - fired_at).total_seconds()
            if elapsed < holdoff - tolerance and action not in forced and not was_reset(event["server"], fired_at, action):
                yield f"{action}: was begun {elapsed:.1f} s after the watchdog's NMI {message_id}, within the hold-off"
