"""One simulated world: hosts with guests and agents, a broker, a gateway, and what a script does to them."""

import contextlib
import dataclasses
import functools
import logging
import random
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from api_gateway.store import actions as stored_actions
from compute_agent.contract.models import ActionKind, PowerState
from tests.simulation.agent import Agent
from tests.simulation.at_commit import StrikeAtCommit
from tests.simulation.broker import Broker
from tests.simulation.cancelling import Cancellations
from tests.simulation.clients import Clients, Wish
from tests.simulation.engine import MAX_CLOCK_SKEW, SWEEP_INTERVAL
from tests.simulation.forgery import TRUSTED, Forgeries, create_signer
from tests.simulation.gateway import Gateway
from tests.simulation.hypervisor import CALL_BOUND, Guest, Hypervisor, LibraryBroke
from tests.simulation.kernel import HostClock, Kernel, Process
from tests.simulation.logs import Log
from tests.simulation.misfortunes import name_engine, name_host
from tests.simulation.probes import Probes
from tests.simulation.restore import Backup
from tests.simulation.script import Script
from tests.simulation.settling import NUDGED
from tests.simulation.step import Step, name_guest
from tests.simulation.watchdogs import Watchdogs

FROZEN_SHARE = 0.25
"""Of the strikes at a commit that chance draws."""

PROJECTS = ("demo", "shop")
"""Whose servers there are, by turns."""

GRACE = MAX_CLOCK_SKEW + CALL_BOUND
SWEEP_ALLOWANCE = SWEEP_INTERVAL + 4.0
"""Seconds that an engine which runs may take to see that a deadline and its grace are over."""


class World:
    """Composes the parts of a script's plan, lets time pass, and plays the script's steps.

    :param template: a database with its tables made
    :param folder: for the files of this run, on a fast disk
    :param told: whether its history says what is normal as well; that costs a twentieth of a run
    """

    def __init__(self, script: Script, template: Path, folder: Path, *, told: bool = True) -> None:
        plan = self.plan = script.plan
        self.script = script
        self.kernel = Kernel(plan.seed)
        self.commits: Counter[tuple[str, str]] = Counter()
        self.strikes: dict[tuple[str, str, int], StrikeAtCommit] = {}
        self.comings: Counter[tuple[str, str]] = Counter()
        """How often each process (by its name) came to each kind of commit."""
        self.aims: dict[tuple[str, str, int], list[Step]] = defaultdict(list)
        """What happens when it comes there for the how manieth time."""
        self.struck: list[StrikeAtCommit] = []
        self.probes = Probes(lambda: self.kernel.time)
        self.refusals: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.arguments: dict[str, Mapping[str, Any]] = {}
        """What each action was asked for with, and which were forced: a restored store knows it no more."""
        self.forced: set[str] = set()
        self.overdue: dict[str, float] = {}
        self.faults_on = True
        self._crash_chance = self._draw("crash")
        self._ids = self._draw("ids")
        self.broker = Broker(self.kernel, self._draw("broker"), dataclasses.replace(plan.broker))
        self.gateway = Gateway(
            self.kernel,
            self.broker,
            template,
            folder,
            self.watch_commit,
            self._draw("gateway"),
            engines=tuple(map(name_engine, range(plan.engines))),
            gathering=plan.gathering,
        )
        self.clients = Clients(self)
        self.cancellations = Cancellations()
        self.gateway.signer = create_signer(self.gateway.clock) if plan.signed else None
        self.agents = [self._create_agent(number, folder) for number in range(plan.hosts)]
        self.watchdogs = [Watchdogs(agent.hypervisor, self._draw(f"watchdogs-{number}")) for number, agent in enumerate(self.agents)]
        self.guest_ids = {guest.name: guest.id for guest in self.list_guests()}
        for guest in self.list_guests():
            guest.configured = guest.first = guest.watchdog
        self.backup = Backup()
        self.forgeries = Forgeries()
        self.kernel.on_fault = self.probes.strike
        self.errors = _ErrorLog(self.kernel, logging.INFO if told else logging.WARNING)

    def list_guests(self) -> list[Guest]:
        return [guest for agent in self.agents for guest in agent.hypervisor.guests.values()]

    def _draw(self, purpose: str) -> random.Random:
        return random.Random(f"{self.plan.seed}/{purpose}")

    def _create_agent(self, number: int, folder: Path) -> Agent:
        chance = self._draw(f"host-{number}")
        offset = self.plan.clock_offsets[number] if number < len(self.plan.clock_offsets) else 0.0
        clock = HostClock(self.kernel, offset)
        guests = [
            Guest(
                id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                name=name_guest(number, index),
                takes=chance.choice(("panics", "dumps", "loads", "deaf")),
                state=chance.choice((PowerState.RUNNING, PowerState.RUNNING, PowerState.RUNNING, PowerState.SHUTDOWN)),
                project=PROJECTS[index % len(PROJECTS)],
                log=Log() if index < self.plan.logs else None,
            )
            for index in range(self.plan.guests_per_host)
        ]
        hypervisor = Hypervisor(clock, name_host(number), chance, dataclasses.replace(self.plan.driver), guests)
        journal = folder / name_host(number)
        return Agent(
            self.broker,
            hypervisor,
            journal,
            self.watch_commit,
            self._draw(f"agent-{number}"),
            self.plan.holdoff,
            gathering=self.plan.gathering,
            trusted=TRUSTED if self.plan.signed else None,
            on_full=lambda seconds: self.probes.strike("journal full", seconds),
            on_cancel=self.probes.note_cancelled,
        )

    @contextlib.contextmanager
    def _repeatable(self) -> Iterator[None]:
        """Every id that production code makes comes from the seed; every error that it logs is kept."""
        with mock.patch("uuid.uuid4", self._draw_id), self.errors:
            yield

    def draw_action_id(self) -> str:
        return f"req-{self._draw_id()}"

    def _draw_id(self) -> uuid.UUID:
        return uuid.UUID(int=self._ids.getrandbits(128), version=4)

    def play(self) -> None:
        """The script for the plan's duration; then there is calm."""
        with self._repeatable():
            self.begin()
            for step in self.script.steps:
                self.kernel.call_at(step.at, functools.partial(step.apply, self), first=True)
            self.kernel.run_until(self.plan.duration)
            self.calm()

    def read_journals(self) -> None:
        """For the invariants."""
        for agent in self.agents:
            agent.read_committed()

    @property
    def lost_epochs(self) -> set[str]:
        """Journals that an operator deleted."""
        return set().union(*(agent.lost_epochs for agent in self.agents))

    @property
    def order_is_promised(self) -> bool:
        """Whether nothing happened after which nobody promises an order any more: what was lost and came again came behind the rest."""
        return self.broker.order_kept and not self.backup.restorations

    def list_committed_events(self) -> dict[str, list[tuple[int, str, str]]]:
        """Epoch -> (sequence, message_id, event_type) of everything that was committed to that journal."""
        return {epoch: events for agent in self.agents for epoch, events in agent.committed.items()}

    def begin(self) -> None:
        """Everything is started."""
        self._watch_deadlines()
        for part in (*self.gateway.engines, *self.agents):
            part.start()

    def _watch_deadlines(self) -> None:
        """Every few seconds: each row ends, visibly, by its deadline and grace, as soon as any engine can run and write at all."""
        now = self.kernel.time
        since = min((engine.since for engine in self.gateway.engines if engine.process.alive), default=now)
        if now - max(since, self.gateway.database.usable_since) > SWEEP_ALLOWANCE:
            for action_id in self.gateway.list_open_past(now - SWEEP_ALLOWANCE, GRACE):
                if action_id not in self.backup.forgotten.actions:  # their rows come back when their agents tell of them, however late
                    self.overdue.setdefault(action_id, now)
        self.kernel.call_after(2.5, self._watch_deadlines)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._repeatable():
            self.kernel.run_until(self.kernel.time + seconds)

    def calm(self) -> None:
        """The last fault is over; at its end each host has something to tell, so that no gap stays unseen."""
        self.kernel.note("world", "calm")
        self.faults_on = False
        faults = self.broker.faults
        faults.cast_raises = faults.cast_lost = faults.cast_repeated = faults.delay = faults.publish_fails = 0.0
        faults.event_repeated = faults.event_reordered = faults.heartbeat_lost = 0.0
        self.broker.up or self.broker.start()
        self.broker.set_alarm(False)
        for name in sorted(self.broker.cut):
            self.broker.set_cut(name, False)
        for agent in self.agents:
            agent.hypervisor.set_up(True)
            agent.hypervisor.faults.never = agent.hypervisor.faults.hanging_read = 0.0
            agent.fill_journal(0.0)
            if not agent.process.alive:
                self.kernel.call_after(0.5, agent.start)
            for guest in agent.hypervisor.guests.values():
                if guest.log is not None:
                    agent.hypervisor.logs.find_again(guest)
                if guest.owed:
                    agent.hypervisor.resume(guest)  # what it does about its NMI takes its time
                agent.hypervisor.define(guest)
                self.kernel.call_after(NUDGED, lambda guest=guest: _nudge(guest.home, guest))
        self.gateway.database.heal()
        self.clients.thaw()
        for engine in self.gateway.engines:
            self.kernel.call_after(0.5, engine.start)

    # Commits and crashes

    def watch_commit(self, process: Process, label: str, side: str) -> None:
        """Around every commit of journal and store: the place where a process may be killed or frozen."""
        self.commits[label, side] += 1
        if side == "before":
            self._strike_as_aimed(process, label)
            self.probes.note_commit(label)
        strike = self.strikes.get((label, side, self.commits[label, side]))
        if strike is None and self.faults_on and self._crash_chance.random() < self.plan.crash_at_commit:
            away, frozen = self._crash_chance.uniform(0.2, 15.0), self._crash_chance.random() < FROZEN_SHARE
            strike = StrikeAtCommit(0.0, label, side, self.commits[label, side], away, frozen)
        if strike is None:
            return
        self.struck.append(strike)
        self.probes.note_strike(label, "frozen there" if strike.frozen else f"killed {side}")
        if strike.frozen:
            self.kernel.note(process.name, f"is frozen {side} the commit {label} for {strike.away:.3f} s")
            self.freeze(process, strike.away)
        else:
            self.kernel.note(process.name, f"is killed {side} the commit {label}")
            self.kill(process, strike.away)

    def _strike_as_aimed(self, process: Process, label: str) -> None:
        self.comings[label, process.name] += 1
        for step in self.aims.pop((label, process.name, self.comings[label, process.name]), ()):
            if self.faults_on:
                self.kernel.note(process.name, f"comes to the commit {label}: {step.tell()}")
                step.apply(self)

    def freeze(self, process: Process, seconds: float) -> None:
        """SIGSTOP a process, SIGCONT after that."""
        self.probes.strike("process frozen", seconds)
        self.kernel.freeze(process, seconds)
        for engine in self.gateway.engines:
            if process is engine.process:
                engine.since = process.frozen_until

    def kill(self, process: Process, away: float) -> None:
        """kill -9 a process; it is started again ``away`` seconds later."""
        for part in (*self.gateway.engines, *self.agents):
            if process is part.process:
                self.kernel.call_at(self.kernel.time, part.end_life, first=True)
                self.kernel.call_after(away, part.start)
        self.kernel.kill(process)

    def start_broker(self) -> None:
        if not self.broker.up:
            self.kernel.note("broker", "starts")
            self.broker.start()

    # Who is there

    def find_process(self, name: str) -> Process | None:
        """The present or last life of an engine or of a host's agent."""
        lives = (part.process for part in (*self.gateway.engines, *self.agents))
        return next((process for process in lives if process.name == name), None)

    def find_agent(self, guest: str) -> Agent | None:
        """That of the host where a guest is now."""
        return next((agent for agent in self.agents if self.guest_ids[guest] in agent.hypervisor.guests), None)

    # What people do

    def post(
        self,
        server: str,
        *,
        deadline: float,
        force: bool = False,
        kind: ActionKind = ActionKind.TRIGGER_CRASH_DUMP,
        arguments: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> None:
        """A request to the API."""
        self.clients.ask(Wish(server, deadline, kind, force, arguments or {}, key))

    def refuse(self, action_id: str, server: str, why: str) -> None:
        self.refusals[why.split(" ", 1)[0]] += 1
        self.kernel.note("api", f"refused {action_id} server {server}: {why}")

    def find_action(self, action_id: str) -> stored_actions.ActionRow | None:
        with self.gateway.reader.read() as c:
            return stored_actions.find_action(c, action_id)

    def tell_history(self) -> str:
        """What happened, line by line, with names instead of ids."""
        text = "\n".join(self.kernel.history)
        names = {guest.id: guest.name for agent in self.agents for guest in agent.hypervisor.guests.values()}
        for prefix, pattern in (("action", r"req-[0-9a-f-]{36}"), ("journal", r"\b[0-9a-f]{32}\b")):
            names |= {found: f"{prefix}-{number}" for number, found in enumerate(dict.fromkeys(re.findall(pattern, text)), 1)}
        return re.sub(r"(req-)?[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{32}\b", lambda match: names.get(match[0], match[0]), text)

    def close(self) -> None:
        """Let go of files."""
        self.clients.kill_frozen()
        for part in (*self.gateway.engines, *self.agents):
            if part.process.alive:
                self.kernel.kill(part.process)
            part.end_life()
        self.kernel.finish()
        self.backup.close()
        self.gateway.dispose()


def _nudge(hypervisor: Hypervisor, guest: Guest) -> None:
    """Some change that the agent reports."""
    if guest.state is PowerState.PAUSED:
        hypervisor.resume(guest)
    elif guest.state is PowerState.RUNNING:
        hypervisor.pause(guest)
    else:
        hypervisor.start(guest)


class _ErrorLog(logging.Handler):
    """Puts what production code logs into the history, and keeps what it logs with a traceback: it caught what it did not expect."""

    def __init__(self, kernel: Kernel, level: int) -> None:
        super().__init__(level)
        self.tracebacks: list[str] = []
        self._kernel = kernel
        self._loggers = [logging.getLogger(name) for name in ("compute_agent", "api_gateway")]

    def __enter__(self) -> "_ErrorLog":
        for logger in self._loggers:
            logger.addHandler(self)
            logger.setLevel(self.level)
            logger.propagate = False  # the history holds it already, and pytest's own capture would cost more than the run
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.removeHandler(self)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        process = self._kernel.get_process()
        who = "world" if process is None else process.name
        self._kernel.note(who, f"{record.levelname.lower()}: {record.getMessage()}")
        if record.exc_info and not isinstance(record.exc_info[1], LibraryBroke):
            self.tracebacks.append(self.format(record))
