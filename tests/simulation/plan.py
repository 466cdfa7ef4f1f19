"""What one seed does: how big the world is, what is asked of it, and which faults strike when. Drawn once, from the seed alone.

Each seed switches on a part of the faults only (a fault that is always on hides others behind itself), so that all of them together
cover combinations as well as calm seas.
"""

import dataclasses
import random
from dataclasses import dataclass, field

from tests.simulation.broker import Faults
from tests.simulation.hypervisor import DriverFaults


@dataclass(frozen=True)
class Plan:
    """One run. Times in virtual seconds; ``chances`` are per minute and host unless said otherwise."""

    seed: str
    duration: float = 100.0
    hosts: int = 2
    guests_per_host: int = 2
    engines: int = 1
    """At once over the same store, on one broker."""
    actions: int = 12
    collections: int = 0
    """Further actions that collect diagnostics."""
    changes: int = 0
    """Further actions that set or remove a watchdog."""
    resumes: int = 0
    """Further actions that resume a server."""
    feedings: int = 0
    """Further actions that reset a watchdog's timer."""
    host_dumps: int = 0
    """Further actions that write a server's memory to a file."""
    cancellations: int = 0
    """Further actions that are called off again."""
    holdoff: float = 600.0
    gateway_holdoff: float = 600.0
    """0 lets everything through to the agents, so that theirs is tried."""
    clock_offsets: tuple[float, ...] = ()
    broker: Faults = field(default_factory=Faults)
    driver: DriverFaults = field(default_factory=DriverFaults)
    gathering: float = 0.0
    """Seconds at most for which recorder and reporters let events gather: big batches make another run than single events."""
    signed: bool = False
    """Whether the gateway signs its casts and agents trust its key alone."""
    crash_at_commit: float = 0.0
    """Chance per commit."""
    deadlines: tuple[float, float] = (1.0, 30.0)
    forced: float = 0.0
    """Chance per action."""
    keyed: float = 0.0
    """Chance per crash dump that it is asked for with an idempotency key, and again until there is an answer."""
    strikes: int = 0
    """Kills and freezes at commits of kinds that are drawn first, so that the rare ones have their share."""
    aims: int = 0
    """Other faults that come exactly at a commit of a kind that is drawn first."""
    guest_moves: float = 0.0
    power_ons: float = 0.0
    """Looks, per minute and guest, of somebody who starts again what is off."""
    agent_kills: float = 0.0
    engine_kills: float = 0.0
    freezes: float = 0.0
    broker_stops: float = 0.0
    alarms: float = 0.0
    cuts: float = 0.0
    daemon_stops: float = 0.0
    purges: float = 0.0
    journal_losses: float = 0.0
    clock_steps: float = 0.0
    firings: float = 0.0
    """Of the guests' watchdogs."""

    logs: int = 0
    """Servers per host whose platform keeps a log: what happens to them is read there, and each of them can be out of reach."""
    losses: float = 0.0
    """Of those servers."""
    restorations: float = 0.0
    """Of the gateway's store from a backup; per minute."""
    forgeries: float = 0.0
    """Messages that somebody sends who has no business to; per minute."""
    migrations: float = 0.0
    """Of guests from host to host."""
    api_freezes: float = 0.0
    """Of requests between their checks and their commit; per minute."""
    full_stores: float = 0.0
    """Times without room under the gateway's database, or in which its commits are not answered; per minute."""
    full_journals: float = 0.0


SCHEDULED = frozenset(
    (
        "actions",
        "collections",
        "changes",
        "resumes",
        "feedings",
        "host_dumps",
        "cancellations",
        "deadlines",
        "forced",
        "strikes",
        "aims",
        "guest_moves",
        "power_ons",
        "agent_kills",
        "engine_kills",
        "freezes",
        "broker_stops",
        "alarms",
        "cuts",
        "daemon_stops",
        "purges",
        "journal_losses",
        "clock_steps",
        "firings",
        "losses",
        "restorations",
        "migrations",
        "forgeries",
        "keyed",
        "api_freezes",
        "full_stores",
        "full_journals",
    )
)
"""What of a plan only says which steps are drawn."""


def draw_plan(seed: int) -> Plan:
    """The plan of a seed; the same for ever for the same number and code. Those of odd seeds are dense, see there."""
    plan = _draw_sparse_plan(seed)
    if plan.forgeries:
        plan = dataclasses.replace(plan, signed=True)  # else no forged cast could be told from the gateway's
    return _make_dense(plan) if seed % 2 else plan


def _make_dense(plan: Plan) -> Plan:
    """The same misfortunes over many guests of which much is asked: what waits for what is another matter than in an idle world, and an
    action costs a third of one of those."""
    chance = random.Random(f"{plan.seed}/dense")
    return dataclasses.replace(
        plan,
        guests_per_host=chance.choice((4, 6, 8)),
        actions=chance.randint(100, 200),  # of one server only one at a time is accepted
        collections=chance.randint(350, 700),
        changes=chance.choice((0, 40, 80)),
        resumes=chance.choice((0, 20)),
        cancellations=8 * plan.cancellations,
        deadlines=chance.choice(((1.0, 30.0), (5.0, 60.0))),
        gateway_holdoff=0.0,
        gathering=chance.choice((0.5, 1.0, 2.0)),
        guest_moves=2 * plan.guest_moves,
        power_ons=6.0,
        strikes=chance.choice((0, 4, 8)),
        aims=chance.choice((0, 4, 8)),
    )


def _draw_sparse_plan(seed: int) -> Plan:
    chance, rare = random.Random(f"{seed}/plan"), random.Random(f"{seed}/rare")

    def sometimes(most: float, share: float = 0.35) -> float:
        return chance.uniform(0.1, 1.0) * most if chance.random() < share else 0.0

    hosts = chance.choice((1, 1, 2, 3))
    holdoff = chance.choice((0.0, 15.0, 15.0, 60.0, 600.0))
    return Plan(
        seed=str(seed),
        hosts=hosts,
        guests_per_host=chance.choice((1, 2, 4)),
        actions=chance.randint(5, 30),
        holdoff=holdoff,
        gateway_holdoff=chance.choice((holdoff, holdoff, 0.0)),
        clock_offsets=tuple(
            chance.uniform(-1.9, 1.9) if chance.random() < 0.4 else chance.choice((-7.0, 7.0)) if chance.random() < 0.1 else 0.0
            for _ in range(hosts)
        ),
        broker=Faults(
            latency=chance.choice((0.002, 0.01, 0.2)),
            cast_raises=sometimes(0.4),
            cast_lost=sometimes(0.5),
            cast_repeated=sometimes(0.5),
            delay=sometimes(0.5),
            longest_delay=chance.choice((1.0, 8.0, 30.0)),
            publish_fails=sometimes(0.4),
            event_repeated=sometimes(0.4),
            event_reordered=sometimes(0.2, share=0.1),
            heartbeat_lost=sometimes(0.5),
        ),
        driver=DriverFaults(
            unavailable=sometimes(0.3),
            answer_lost=sometimes(0.3),
            undeclared=sometimes(0.3),
            slow=sometimes(0.5),
            slow_read=sometimes(0.2),
            latency=chance.choice((0.005, 0.05, 2.0)),
            never=rare.uniform(0.02, 0.4) if rare.random() < 0.25 else 0.0,
            hanging_read=rare.uniform(0.005, 0.05) if rare.random() < 0.1 else 0.0,
        ),
        crash_at_commit=sometimes(0.03),
        forced=sometimes(0.3),
        guest_moves=sometimes(6.0, share=0.8),
        agent_kills=sometimes(2.0),
        engine_kills=sometimes(2.0),
        freezes=sometimes(1.5),
        broker_stops=sometimes(1.0),
        alarms=sometimes(1.0),
        cuts=sometimes(1.5),
        daemon_stops=sometimes(1.0),
        purges=sometimes(1.0, share=0.2),
        journal_losses=sometimes(1.0, share=0.2),
        clock_steps=sometimes(1.0, share=0.2),
        collections=chance.choice((0, 0, 0, 5)),
        firings=sometimes(12.0, share=0.5),
        changes=chance.choice((0, 0, 0, 10)),
        resumes=chance.choice((0, 0, 0, 4)),
        logs=chance.choice((0, 0, 1, 2)),
        losses=sometimes(3.0, share=0.7),
        restorations=sometimes(2.0, share=0.15),
        migrations=sometimes(6.0, share=0.4),
        forgeries=sometimes(6.0, share=0.25),
        signed=chance.random() < 0.5,
        strikes=chance.choice((0, 2, 4)),
        engines=2 if chance.random() < 0.15 else 1,
        keyed=sometimes(1.0, share=0.2),
        api_freezes=sometimes(2.0, share=0.15),
        full_stores=sometimes(4.0, share=0.2),
        full_journals=sometimes(2.0, share=0.15),
        feedings=chance.choice((0, 0, 0, 8)),
        host_dumps=chance.choice((0, 0, 0, 0, 6)),
        aims=rare.choice((0, 2, 4)),
        cancellations=random.Random(f"{seed}/cancellations").choice((0, 5, 10)),
    )
