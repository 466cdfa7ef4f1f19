"""One run: bring the system up, put traffic and faults to it, wait until it is quiet, write down what is left, judge, report."""

import itertools
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from devstack.databases import DatabaseKind
from devstack.services import wait_until
from devstack.standstills import noting_standstills
from devstack.steps import Steps
from tests.chaos.catalogue import choose_faults
from tests.chaos.collecting import collect, find_unsettled, list_tracebacks
from tests.chaos.faults import Fault, Scene, describe_draws
from tests.chaos.guests import RealGuests
from tests.chaos.history import History, What, read_lines
from tests.chaos.hosting import SKEW, FakeHosts
from tests.chaos.record import Record, Violation
from tests.chaos.report import Figures, count_figures, format_report
from tests.chaos.schedule import Strike, draw_schedule
from tests.chaos.striker import Striker
from tests.chaos.system import ChaosSystem
from tests.chaos.traffic import Traffic
from tests.chaos.validator import validate_record
from tests.chaos.watching import Onlookers, SecondConsumer

SYSTEM = "system"
"""The directory of the system under attack, beside the history."""
_FAKE_AGENT = (sys.executable, "-m", "tests.chaos.agent_program")
_QUIET_TIMEOUT = 60.0
_PROGRESS_INTERVAL = 10.0
_REVIVAL_INTERVAL = 1.0
"""Seconds until an init system starts again what ended by itself."""
_LEAST_END = 10.0
"""Seconds that it takes in any case until all is quiet, judged and stopped."""
_LEAST_SECONDS = 30.0


@dataclass(frozen=True)
class Wish:
    """What is asked of a run. ``rate`` is actions a second; of hosts with real guests there is one; ``faults`` and ``targets`` are names,
    none: all of them; ``most_seconds`` is what everything may take: on a slow machine traffic and faults get less than ``minutes`` then."""

    seed: int
    minutes: float
    rate: float = 14.0
    hosts: int = 4
    clients: int = 8
    has_real_guests: bool = False
    database: DatabaseKind = DatabaseKind.SQLITE
    broker_nodes: int = 1
    gateways: int = 1
    faults: Sequence[str] = ()
    targets: Sequence[str] = ()
    combined: float = 0.5
    pause: tuple[float, float] = (1.0, 4.0)
    most_seconds: float | None = None

    @property
    def port_blocks(self) -> int:
        """Blocks of ports that its system needs."""
        return max(self.broker_nodes, self.gateways)


@dataclass(frozen=True)
class Result:
    figures: Figures
    violations: list[Violation]
    history: Path

    @property
    def text(self) -> str:
        return format_report(self.figures, self.violations)


def run_chaos(directory: Path, port: int, wish: Wish, steps: Steps) -> Result:
    """Everything under ``directory``; all processes have ended when this returns or raises. Raises StepFailed when it does not come up."""
    began = time.monotonic()
    chosen = choose_faults(wish.faults)
    history = History(directory / "history.jsonl")
    system = ChaosSystem(
        directory / SYSTEM,
        port,
        RealGuests() if wish.has_real_guests else FakeHosts(wish.hosts, _FAKE_AGENT),
        database=wish.database,
        broker_nodes=wish.broker_nodes,
        gateways=wish.gateways,
        steps=steps,
    )
    consumer = SecondConsumer(system.stack.broker.transport_url, history)
    with ExitStack() as ending:  # whatever fails of it, the rest is stopped
        ending.callback(history.close)
        ending.callback(system.down)
        ending.callback(system.hosting.end)
        ending.callback(consumer.stop)
        system.up(before_services=consumer.start)
        _write_setup(system, history, wish, chosen)
        system.hosting.begin(system.stack, history)
        seconds = _find_seconds(wish, time.monotonic() - began)
        ending.enter_context(noting_standstills(lambda seconds: history.write(What.STOOD_STILL, seconds=seconds)))
        _attack(system, consumer, history, wish, chosen, seconds, steps)
    return judge(history.path)


def judge(path: Path) -> Result:
    """Validate a history, this run's or a kept one. Where the logs were kept with it, they are read again."""
    lines = read_lines(path)
    logs = sorted((path.parent / SYSTEM).glob("*.log"))
    if logs:
        lines = itertools.chain((line for line in lines if line["what"] != What.TRACEBACK), list_tracebacks(logs))
    record = Record.read(lines)
    violations = validate_record(record)
    return Result(count_figures(record, violations), violations, path)


def _write_setup(system: ChaosSystem, history: History, wish: Wish, faults: Mapping[str, Fault]) -> None:
    write_setup(system, history, seed=wish.seed, minutes=wish.minutes, faults=sorted(describe_draws(faults, system, wish.targets)))


def write_setup(system: ChaosSystem, history: History, **fields: Any) -> None:
    """What a judge must know of the system."""
    history.write(
        What.SETUP,
        servers={server: {"host": host.name, "project": host.servers[server]} for server, host in system.servers.items()},
        holdoff=system.hosting.holdoff,
        skew=SKEW,
        bound=system.hosting.bound,
        tolerance=0.1,
        counts_calls=system.hosting.counts_calls,
        start_seconds=system.start_seconds,
        **fields,
    )


def _find_seconds(wish: Wish, start_seconds: float) -> float:
    """How long traffic and faults go on. A machine that took long to start everything takes long to stop it."""
    seconds = wish.minutes * 60
    if wish.most_seconds is not None:
        seconds = min(seconds, wish.most_seconds - 2 * start_seconds - _LEAST_END)
    return max(seconds, _LEAST_SECONDS)


def _attack(
    system: ChaosSystem,
    consumer: SecondConsumer,
    history: History,
    wish: Wish,
    faults: Mapping[str, Fault],
    seconds: float,
    steps: Steps,
) -> None:
    draws = describe_draws(faults, system, wish.targets)
    schedule = draw_schedule(str(wish.seed), draws, seconds=seconds, pause=wish.pause, combined=wish.combined)
    steps.say(f"             seed {wish.seed}: {len(schedule)} faults in {seconds:.0f} s, {wish.rate:g} actions a second")
    onlookers = Onlookers(system, history, seed=str(wish.seed))
    traffic = Traffic(system, history, seed=str(wish.seed), rate=wish.rate, clients=wish.clients)
    scene = Scene(system, history, str(wish.seed))
    try:
        onlookers.start()
        traffic.start()
        striker = Striker(scene, faults, steps)
        try:
            _strike_all(striker, schedule, seconds, traffic, steps)
        finally:
            striker.stop()
            traffic.stop()
        finish(system, consumer, history, onlookers, steps)
    finally:
        onlookers.stop()


def finish(system: ChaosSystem, consumer: SecondConsumer, history: History, onlookers: Onlookers, steps: Steps) -> None:
    """Let everything that was asked for come to its end, stop the processes, write down what is left."""
    _wait_quiet(system, history, "after the faults", steps)
    onlookers.stop()
    with steps.step("APIs and agents stopped"):
        system.stop_callers()
    _wait_quiet(system, history, "with the agents stopped", steps)
    with steps.step("the second consumer has heard everything"):
        consumer.wait_idle()
    system.stop_engines()
    with steps.step("what is left, collected"):
        collect(system, history)


def _strike_all(striker: Striker, schedule: Sequence[Strike], seconds: float, traffic: Traffic, steps: Steps) -> None:
    began = time.monotonic()
    pending = list(schedule)
    told = 0.0
    while (passed := time.monotonic() - began) < seconds:
        while pending and pending[0].at <= passed:
            striker.strike(pending.pop(0))
        if passed - told >= _PROGRESS_INTERVAL:
            told = passed
            steps.say(f"[{passed:7.1f} s] {traffic.accepted} actions accepted of {traffic.asked} asked for")
        striker.revive()
        wake_at = min([seconds, passed + _REVIVAL_INTERVAL, told + _PROGRESS_INTERVAL, *(strike.at for strike in pending[:1])])
        time.sleep(max(0.01, wake_at - (time.monotonic() - began)))
    striker.wait_over()
    striker.revive()


def _wait_quiet(system: ChaosSystem, history: History, when: str, steps: Steps) -> None:
    last = "nothing could be read"

    def is_quiet() -> bool:
        nonlocal last
        try:
            last = find_unsettled(system)
        except (sqlite3.Error, SQLAlchemyError) as error:
            last = repr(error)
        return not last

    with steps.step(f"quiet {when}"):
        try:
            wait_until(is_quiet, _QUIET_TIMEOUT, "quiet", interval=0.5)
        except TimeoutError:
            steps.say(f"             not quiet {when}: {last}")
            history.write(What.UNSETTLED, text=f"{when}: {last}")
