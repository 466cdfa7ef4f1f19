"""Watchdogs that fire in five guests while everything between them and the record is killed, again and again: what was lost, and why.

The ledger of what really fired is QEMU's own, read by this test past crashcart, its agent and libvirtd.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devstack.guests import Guest, GuestKind
from devstack.services import PATIENCE, wait_until
from devstack.stack import GuestSpec, Stack
from tests.firing_ledger import Fired, FiringLedger
from tests.stack.broker_events import settle
from tests.stack.firing_record import (
    FIRED,
    OUTCOME,
    Away,
    Event,
    find_inconclusive,
    find_misses,
    find_unrecorded,
    list_connections,
    read_epoch,
    read_journal,
    read_store,
)
from tests.stack.real_stack import find_qemu, running_stack

TIMEOUT = 40.0
SEED = int(os.environ.get("CRASHCART_FAULT_SEED", "5"))
KILLED = ("agent", "agent", "engine", "engine", "libvirtd", "libvirtd", "broker")
WATCHING = ("agent", "libvirtd")
"""While one of them is away nobody is told of a firing."""
FIRING = tuple(f"fires-{number}" for number in range(5))
PAUSED = "pauses"
GUESTS = (
    *(GuestSpec(name, GuestKind.DEAF, watchdog="i6300esb:none", second_monitor=True) for name in FIRING),
    GuestSpec(PAUSED, GuestKind.DEAF, watchdog="i6300esb:pause", second_monitor=True),
)
_FOR_EVER = 100_000
_READING = timedelta(milliseconds=100)
"""How far the ledger may be behind QEMU."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack"), GUESTS, {}) as system:
        yield system


class Faults:
    """Kills parts of a stack and brings them back, and notes when nobody could be told of a firing."""

    def __init__(self, stack: Stack, ledger: FiringLedger, chance: random.Random) -> None:
        self.stack = stack
        self.away: list[Away] = []
        self.unseen: list[Fired] = []
        self._ledger = ledger
        self._chance = chance
        self._firing = [stack.guests[name] for name in FIRING]
        self._pausing = stack.guests[PAUSED]
        self._kills: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "agent": (stack.agent.kill, stack.agent.start),
            "engine": (stack.engine.kill, stack.engine.start),
            "broker": (stack.broker.kill, stack.broker.start),
            "libvirtd": (stack.libvirtd.kill, self._start_libvirtd),
        }

    def kill_and_revive(self, part: str) -> None:
        """At a moment by chance; while agent or libvirtd is away the guest that its watchdog pauses is paused."""
        kill, revive = self._kills[part]
        if part == "broker":
            settle(self.stack.broker)
        time.sleep(self._chance.uniform(0, 1.5))  # the moment of the kill is what is left to chance
        if part in WATCHING:
            since = self._wait_journalled()
            time.sleep(self._chance.uniform(0, 0.2))  # some die between QEMU's word and the journal's commit
            kill()
            self._fire_unseen()
            revive()
            self.away.append(Away(part, since, self._wait_told_of_events(part, since)))
            self._resume()
        else:
            kill()
            time.sleep(self._chance.uniform(0.2, 2))  # and how long it is away
            revive()
        self._ledger.wait_for_next([guest.uuid for guest in self._firing], TIMEOUT)

    def _wait_journalled(self) -> datetime:
        """Until when every firing is in the journal: what is on its way there may die with who is killed."""
        problems: list[str] = []

        def find_complete() -> datetime | None:
            until = datetime.now(UTC) - _READING * PATIENCE
            journalled = read_journal(get_journal(self.stack))
            problems.clear()
            for guest in self._firing:
                of_guest = [event for event in journalled if event.server == guest.uuid]
                problems.extend(find_misses(self._ledger.list_firings(guest.uuid), of_guest, self.away))
            return None if problems else until

        try:
            return wait_until(find_complete, TIMEOUT, "the firings to be in the journal")
        except TimeoutError as error:
            raise AssertionError("\n".join([f"seed {SEED}; away: {self.away}", *problems])) from error

    def _start_libvirtd(self) -> None:
        """It takes its time to find the paused guest again: the agent is connected, and compares states, before that."""
        since = datetime.now(UTC)
        qemu = find_qemu(self._pausing)
        qemu.send(signal.SIGSTOP)
        try:
            self.stack.libvirtd.start()
            self._wait_connected(since)
        finally:
            qemu.send(signal.SIGCONT)

    def _fire_unseen(self) -> None:
        already = len(self._ledger.list_firings(self._pausing.uuid))
        self._pausing.commands.starve_watchdog()
        self._ledger.wait_for(lambda firings: _count(firings, self._pausing) > already, TIMEOUT, "the pausing guest to fire")
        self.unseen.append(self._ledger.list_firings(self._pausing.uuid)[-1])

    def _wait_told_of_events(self, part: str, since: datetime) -> datetime:
        """Since when libvirtd is told of every guest's events again, which it is only after it answers, and the agent of libvirtd's."""
        told = [since]
        if part == "libvirtd":
            with self.stack.libvirtd.connect() as connection:
                for guest in (*self._firing, self._pausing):
                    connection.lookupByUUIDString(guest.uuid).memoryStats()  # answered by the guest's monitor
            told.append(datetime.now(UTC))
        return max(*told, self._wait_connected(since))

    def _wait_connected(self, since: datetime) -> datetime:
        log = self.stack.agent.log
        assert log is not None
        return wait_until(lambda: [at for at in list_connections(log) if at > since], TIMEOUT, "the agent to connect to libvirt")[0]

    def _resume(self) -> None:
        """Once the unseen pause is told: found afterwards, and concluded."""
        wait_until(lambda: len(list_late(self.stack, self._pausing, OUTCOME)) == len(self.unseen), TIMEOUT, "the unseen pause to be told")
        self._pausing.resume()


def _count(firings: list[Fired], guest: Guest) -> int:
    return sum(fired.server == guest.uuid for fired in firings)


def list_recorded(stack: Stack) -> list[Event]:
    return read_store(stack.state_dir / "gateway" / "gateway.sqlite", read_epoch(get_journal(stack)))


def get_journal(stack: Stack) -> Path:
    return stack.state_dir / "agent" / "journal.sqlite"


def list_late(stack: Stack, guest: Guest, event_type: str) -> list[Event]:
    """What was found afterwards of a guest."""
    return [each for each in list_recorded(stack) if each.server == guest.uuid and each.event_type == event_type and each.is_late]


def find_problems(stack: Stack, ledger: FiringLedger, away: list[Away]) -> list[str]:
    """Everything that is wrong with the record."""
    recorded = list_recorded(stack)
    problems = find_unrecorded(read_journal(get_journal(stack)), recorded) + find_inconclusive(recorded)
    for guest in stack.guests.values():
        of_guest = [event for event in recorded if event.server == guest.uuid]
        problems += [f"{guest.name}: {problem}" for problem in find_misses(ledger.list_firings(guest.uuid), of_guest, away)]
    return problems


def assert_told(stack: Stack, ledger: FiringLedger, away: list[Away]) -> None:
    """The last firings are still on their way at first."""
    try:
        wait_until(lambda: not find_problems(stack, ledger, away), TIMEOUT, "the record to be right", interval=0.2)
    except TimeoutError as error:
        raise AssertionError("\n".join([f"seed {SEED}; away: {away}", *find_problems(stack, ledger, away)])) from error


@pytest.mark.timeout(300 * PATIENCE)
def test_no_firing_is_lost_but_what_nobody_could_be_told_of_and_none_is_told_twice(stack: Stack) -> None:
    """Agent, engine, broker and libvirtd are killed with -9, in an order and at moments by chance; a pause that nobody saw is found."""
    chance = random.Random(SEED)
    guests = [stack.guests[name] for name in FIRING]
    pausing = stack.guests[PAUSED]
    with FiringLedger(stack.guests.values()) as ledger:
        faults = Faults(stack, ledger, chance)
        for guest in guests:
            guest.commands.starve_watchdog(times=_FOR_EVER)
        ledger.wait_for_next([guest.uuid for guest in guests], TIMEOUT)
        for part in chance.sample(KILLED, len(KILLED)):
            faults.kill_and_revive(part)
        for guest in guests:
            guest.suspend()  # none fires any more
        assert_told(stack, ledger, faults.away)
        fired = [event for event in list_recorded(stack) if event.event_type == FIRED]
        print(f"{len(ledger.list_firings())} firings, {len(fired)} told; away: {faults.away}")
    late = {event.message_id for event in list_late(stack, pausing, FIRED)}
    outcomes = list_late(stack, pausing, OUTCOME)
    assert len(late) == len(faults.unseen) == sum(part in WATCHING for part in KILLED)
    assert {outcome.payload["fired_event"] for outcome in outcomes} == late
    assert {outcome.payload["result"] for outcome in outcomes} == {"paused"}


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SERVER = "a-server"


def tell(seconds: float, sequence: int, event_type: str = FIRED, **payload: object) -> Event:
    occurred_at = (NOON + timedelta(seconds=seconds)).isoformat()
    return Event(f"event-{sequence}", event_type, SERVER, sequence, sequence, {"occurred_at": occurred_at, **payload})


def conclude(fired: Event, sequence: int) -> Event:
    return tell(0, sequence, OUTCOME, fired_event=fired.message_id)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ((0.01, 1.5, 3.0), None),
        ((0.01, 1.5), "missed"),
        ((0.01, 1.5, 1.6, 3.0), "recorded once more"),
        ((-0.5, 0.01, 1.5, 3.0), "recorded once more"),
        ((3.51, 3.51, 3.52), None),
        ((0.01, 3.51, 3.51, 3.52), "recorded once more"),
        ((0.01, 1.5, 1.5, 3.0), "recorded once more"),
        ((3.51, 3.52), "missed"),
        ((0.01, 1.5, 13.1, 13.1), "recorded once more"),
    ],
)
def test_the_comparison_finds_what_is_missed_and_what_is_told_twice(told: tuple[float, ...], problem: str | None) -> None:
    ledger = [Fired(SERVER, NOON + timedelta(seconds=seconds), "none", NOON) for seconds in (0, 1.5, 3.0)]
    problems = find_misses(ledger, [tell(seconds, number) for number, seconds in enumerate(told)], [])
    assert [each for each in problems if problem is None or problem not in each] == []
    assert bool(problems) is (problem is not None)


def test_the_comparison_excuses_only_who_fired_while_somebody_was_away_or_just_before() -> None:
    ledger = [Fired(SERVER, NOON + timedelta(seconds=seconds), "none", NOON) for seconds in (0, 1.5, 3.0)]
    away = [Away("agent", NOON + timedelta(seconds=1.54), NOON + timedelta(seconds=3))]
    assert find_misses(ledger, [tell(0, 1)], away) == []
    assert len(find_misses(ledger, [tell(0, 1)], [Away("agent", NOON + timedelta(seconds=1.56), NOON + timedelta(seconds=3))])) == 1
    assert find_misses(ledger, [tell(0, 1), tell(4, 2, observed_late=True)], away) == []
    assert len(find_misses(ledger, [tell(0, 1), tell(1.5, 2), tell(3, 3), tell(4, 4, observed_late=True)], away)) == 1


def test_the_comparison_takes_no_firing_that_nobody_was_told_of_for_one_that_was_told_late() -> None:
    ledger = [Fired(SERVER, NOON + timedelta(seconds=seconds), "none", NOON) for seconds in (0, 1.5, 3.0)]
    away = [Away("agent", NOON + timedelta(seconds=1), NOON + timedelta(seconds=2))]
    assert find_misses(ledger, [tell(0, 1), tell(3, 2)], away) == []
    assert len(find_misses(ledger, [tell(0, 1), tell(3, 2), tell(3, 3)], away)) == 1


def test_the_comparison_finds_what_the_store_lacks_repeats_or_has_out_of_order() -> None:
    events = [tell(number, number) for number in range(3)]
    assert find_unrecorded(events, events) == []
    assert len(find_unrecorded(events, events[1:])) == 1
    assert len(find_unrecorded(events, [*events, events[2]])) == 1
    assert len(find_unrecorded(events[1:], events)) == 1
    assert len(find_unrecorded(events, [events[1], events[0], events[2]])) == 1


def test_the_comparison_finds_firings_without_one_outcome_and_outcomes_without_a_firing() -> None:
    fired = tell(0, 1)
    assert find_inconclusive([fired, conclude(fired, 2)]) == []
    assert len(find_inconclusive([fired])) == 1
    assert len(find_inconclusive([fired, conclude(fired, 2), conclude(fired, 3)])) == 1
    assert len(find_inconclusive([conclude(fired, 2)])) == 1
