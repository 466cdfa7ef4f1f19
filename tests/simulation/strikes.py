"""What strikes at chosen commits: chance alone would come to the rare ones once in a thousand worlds."""

import random
from collections.abc import Iterator, Sequence

from tests.simulation.at_commit import API, AtCommit, StrikeAtCommit
from tests.simulation.forgery import CASTS, MALFORMED, POISON, ForgeCast, ForgeEvent, Poison, PoisonCast
from tests.simulation.migration import Migrate
from tests.simulation.misfortunes import (
    Cut,
    FireWatchdog,
    Freeze,
    Kill,
    LoseGuest,
    LoseJournal,
    Purge,
    RaiseAlarm,
    StepClock,
    StopBroker,
    StopDaemon,
    list_names,
    name_engine,
    name_host,
)
from tests.simulation.plan import Plan
from tests.simulation.probes import COMMIT_POINTS, STRUCK_THERE
from tests.simulation.requests import Ask
from tests.simulation.shortages import WORSE, FillJournal, FillStore, FreezeApi, SilenceStore, Worsen
from tests.simulation.step import Step, list_guest_names, list_guests_with_logs, name_guest

_LOST = ("journal.outbox.resend", "store.ask_for_missing_events")
_RESTARTED = ("journal.journal.opened", "journal.agent.up")
_FIRED = ("journal.server.watchdog.fired", "journal.server.watchdog.outcome")
_READ = ("journal.server.cursor",)
_OBSERVED = ("journal.observation",)
"""The rare commits, by what makes them happen."""
_OF_THE_API = ("store.accept", "store.cancel")


def draw_strikes(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """Some kills and freezes, each at a commit of a kind that is as likely as any other, and twice as likely if it is rare."""
    rare = _list_rare(plan)
    for _ in range(plan.strikes):
        label, fault = chance.choice((*COMMIT_POINTS, *rare)), chance.choice(STRUCK_THERE)
        side = "before" if fault == "killed before" else "after"
        occurrence = chance.choice((1, 1, 2) if label in rare else (1, 1, 2, 3, 5, 8))
        yield StrikeAtCommit(0.0, label, side, occurrence, chance.uniform(0.2, 15.0), fault == "frozen there")
        yield from _provoke(label, plan, chance, chance.uniform(2.0, 0.8 * plan.duration), chance.randrange(plan.hosts))


def draw_aims(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """Other faults that come to be at chosen commits, mostly of the rare kinds, and what makes those happen."""
    for serial in range(plan.aims):
        at, host = chance.uniform(2.0, 0.8 * plan.duration), chance.randrange(plan.hosts)
        rare = _list_rare(plan)
        label = chance.choice(rare if chance.random() < 0.8 else COMMIT_POINTS)
        faults = chance.choice(_list_faults(plan, chance, at, host, serial))
        name = name_host(host) if label.startswith("journal.") else API if label in _OF_THE_API else name_engine(0)
        occurrence = chance.choice((1, 1, 2) if label in rare else (1, 3, 8))
        takes_a_moment = isinstance(faults[-1], Ask)
        yield from faults if takes_a_moment else (AtCommit(at, label, name, occurrence, fault) for fault in faults)
        yield from _provoke(label, plan, chance, at, host)


def _list_rare(plan: Plan) -> list[str]:
    """Which of the rare commits can happen there. After a purge no order is promised any more: that is for some worlds only."""
    return [*_RESTARTED, *_OBSERVED, *(_FIRED if plan.firings else ()), *(_READ if plan.logs else ()), *(2 * _LOST if plan.purges else ())]


def _provoke(label: str, plan: Plan, chance: random.Random, at: float, host: int) -> Iterator[Step]:
    """Steps after which a process comes to that commit, more than once if may be."""
    for _ in range(2):
        at += chance.uniform(1.0, 8.0)
        if label in _LOST:  # an engine that stands still takes nothing out of its queue
            yield from (Freeze(at, name_engine(number), 4.0) for number in range(plan.engines))
            yield Purge(at + 3.9)
        elif label in _RESTARTED:
            yield Kill(at, name_host(host), chance.choice((0.2, 2.0)))
        elif label in (*_FIRED, *_READ):
            guests = list_guests_with_logs(plan) if label in _READ else list_guest_names(plan)
            yield from (FireWatchdog(at + chance.uniform(0.0, 4.0), guest) for guest in guests if guest.startswith(f"h{host}g"))


def _list_faults(plan: Plan, chance: random.Random, at: float, host: int, serial: int) -> list[Sequence[Step]]:
    """What may strike, each with what belongs to it: those that are in force as soon as they come."""
    seconds, name = chance.choice((0.5, 5.0, 30.0)), chance.choice(list_names(plan))
    guest, other = (name_guest(host, chance.randrange(plan.guests_per_host)) for _ in range(2))
    asked = tuple(Ask(at, each, 10.0, force=True) for each in (guest, other))  # without which nothing would meet some of them
    faults: list[Sequence[Step]] = [
        *((Worsen(at, host, what, 10.0), *asked) for what in (*WORSE, "never")),
        (Kill(at, name, seconds),),
        (Freeze(at, name, seconds),),
        (Cut(at, name, seconds),),
        (StopBroker(at, seconds),),
        (RaiseAlarm(at, seconds),),
        (StopDaemon(at, host, seconds),),
        (StepClock(at, host, chance.choice((-0.2, 0.2))),),
        (FillJournal(at, host, seconds),),
        (FillStore(at, seconds),),
        (SilenceStore(at, seconds),),
        *(3 * [(FreezeApi(at, seconds), *asked)]),
        (Poison(at, chance.choice(tuple(POISON))),),
        (PoisonCast(at, host, chance.choice(tuple(MALFORMED))),),
        (ForgeEvent(at, host, "action.ended", serial=1000 + serial),),
    ]
    if plan.signed:
        faults.append((ForgeCast(at, host, chance.choice(tuple(CASTS))),))
    if plan.logs:
        faults.append((LoseGuest(at, name_guest(host, 0), seconds),))
    if plan.purges:
        faults.append((Purge(at),))
    if plan.journal_losses:
        faults += 2 * [(LoseJournal(at, host, seconds),)]
    if plan.migrations and plan.hosts > 1:
        faults += 2 * [(Migrate(at, guest, (host + 1) % plan.hosts, seconds),)]
    return faults
