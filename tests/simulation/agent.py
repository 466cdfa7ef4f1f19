"""An agent as its service composes it, life after life, over one journal and one hypervisor that outlive it."""

import dataclasses
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from compute_agent.actions import Actions
from compute_agent.cast_gate import CastGate
from compute_agent.contract.diagnostics import DiagnosticsReply, DiagnosticsReport
from compute_agent.contract.models import ActionKind, ActionRequest, BlackBoxChunk
from compute_agent.contract.publisher import PublishFailed
from compute_agent.contract.signing import CastVerifier, TrustedKeys
from compute_agent.contract.transport import oslo_messaging
from compute_agent.contract.versions import RELEASE
from compute_agent.crash_dump import CrashDump, HoldOff
from compute_agent.diagnostics import make_report
from compute_agent.diagnostics_action import CollectDiagnostics
from compute_agent.drivers.models import DriverEvent
from compute_agent.endpoint import Endpoint
from compute_agent.host_dump_action import TakeHostDump
from compute_agent.host_dumps import DumpPlace, HostDumps
from compute_agent.inventory import Inventory
from compute_agent.journal import ActionState, Journal, JournalFull
from compute_agent.kinds import TURN_OF_KIND
from compute_agent.observer import Observer
from compute_agent.reporter import Heartbeats, Reporter
from compute_agent.reset_timer_action import ResetWatchdogTimer
from compute_agent.resume_action import Resume
from compute_agent.watchdog_actions import RemoveWatchdog, SetWatchdog
from compute_agent.watchdog_drift import WatchdogDrift
from tests.simulation.broker import Broker
from tests.simulation.cancelling import find_state
from tests.simulation.devices import Devices, Resuming
from tests.simulation.driver import connect
from tests.simulation.engine import HOST_DUMP_BOUND, MAX_CLOCK_SKEW
from tests.simulation.gateway import CommitWatch
from tests.simulation.hypervisor import Hypervisor
from tests.simulation.intake import Incoming, WakingQueue
from tests.simulation.kernel import Event, Kernel, Process
from tests.simulation.links import SimulatedPublisher
from tests.simulation.loops import attempt, repeat
from tests.simulation.platform import MemoryWriter, Timers

WORKERS = 3
HEARTBEAT_INTERVAL = 20.0
INVENTORY_INTERVAL = 60.0
FIRST_LOOK = 8.0
OBSERVATION_LIMIT = 45.0
IDLE_WAIT = 2.0
_RESTART_PAUSE = 2.0
CAST_MAX_AGE = timedelta(hours=1)
_WAITS_IN_JOURNAL = """
    SELECT EXISTS (SELECT 1 FROM actions WHERE state != 'ended'
        OR (observation_final = 0 AND kind = 'trigger_crash_dump' AND ending = 'succeeded'))
    OR EXISTS (SELECT 1 FROM outbox WHERE sent_at IS NULL) OR EXISTS (SELECT 1 FROM firings WHERE concluded_at IS NULL)
"""


class Agent:
    """One host's agent. ``process`` is its present or last life."""

    def __init__(
        self,
        broker: Broker,
        hypervisor: Hypervisor,
        folder: Path,
        watch: CommitWatch,
        chance: random.Random,
        holdoff: float,
        *,
        gathering: float = 0.0,
        trusted: TrustedKeys | None = None,
        on_full: Callable[[float], None] = lambda seconds: None,
        on_cancel: Callable[[str], None] = lambda state: None,
    ) -> None:
        """
        :param gathering: seconds at most for which the reporter lets events gather
        :param trusted: whose casts are obeyed; None: everybody's
        :param on_full: told for how many seconds there will be no room under the journal
        :param on_cancel: told how far what is to be cancelled has come
        """
        self.hypervisor = hypervisor
        self.host = hypervisor.host
        self.path = folder / "journal.sqlite"
        self.dumps = folder / "dumps"
        self.process = Process(self.host)
        self.process.alive = False
        self.lost_epochs: set[str] = set()
        self._full_until = 0.0
        self.committed: dict[str, list[tuple[int, str, str]]] = {}
        self._broker = broker
        self._kernel: Kernel = hypervisor.kernel
        self._watch = watch
        self._chance = chance
        self._holdoff = holdoff
        self._gathering = gathering
        self._trusted = trusted
        self._on_full = on_full
        self._on_cancel = on_cancel
        self._journal: Journal | None = None

    # Lives

    def start(self) -> None:
        """Begin a life, unless one is lived."""
        if self.process.alive:
            return
        self.process = process = Process(self.host)
        self._kernel.spawn(process, lambda: self._try_to_live(process))

    def end_life(self) -> None:
        """After a kill: what the operating system lets go of."""
        self._broker.forget(self.process)
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def fill_journal(self, seconds: float) -> None:
        """There is no room under the journal for so long; less than no time: there is again."""
        self._full_until = self._kernel.time + seconds
        self._kernel.note(self.host, "the journal's disk is full" if seconds > 0 else "the journal's disk has room")
        self._on_full(seconds)

    def lose_journal(self) -> None:
        """An operator deletes the journal of an agent that does not run."""
        if self.process.alive or not self.path.exists():
            return
        self.read_committed()
        self.lost_epochs.update(self.committed)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self._kernel.note(self.host, "journal deleted")

    def read_committed(self) -> None:
        """Note every event that the journal holds, for the invariants."""
        if not self.path.exists():
            return
        journal = self._journal
        close = journal is None
        if journal is None:
            journal = Journal.open(self.path, host=self.host, clock=self.hypervisor.clock)
        with journal.transaction("read") as transaction:
            rows = transaction.list_outbox(1, transaction.get_last_sequence())
        self.committed[journal.journal_id] = [(row.sequence, row.message_id, row.event_type) for row in rows]
        if close:
            journal.close()

    def is_at_rest(self) -> bool:
        """Whether its journal has nothing left to do, to watch or to tell."""
        if self._journal is None or not self.process.alive:
            return False
        with self._journal.transaction("read") as transaction:
            return not transaction.execute(_WAITS_IN_JOURNAL).fetchone()[0]

    # One life

    def _try_to_live(self, process: Process) -> None:
        """A process that cannot start because its disk is full ends, and its supervisor starts it again."""
        if not attempt(lambda: self._live(process), (JournalFull,)):
            self._kernel.note(self.host, "cannot start without room")
            self._kernel.call_at(self._kernel.time, self.end_life, first=True)
            self._kernel.call_after(_RESTART_PAUSE, self.start)
            self._kernel.kill(process)

    def _live(self, process: Process) -> None:
        kernel, clock, watch, check_room = self._kernel, self.hypervisor.clock, self._watch, self._check_room

        class WatchedJournal(Journal):
            """The production journal; each commit is told to whoever plans crashes."""

            _seen_changes = 0

            def _commit(self, label: str) -> None:
                process.check()
                changes, self._seen_changes = self._connection.total_changes - self._seen_changes, self._connection.total_changes
                if changes:
                    watch(process, "journal." + label, "before")
                    check_room()
                super()._commit(label)
                if changes:
                    watch(process, "journal." + label, "after")

        self.path.parent.mkdir(exist_ok=True)
        journal = self._journal = WatchedJournal.open(self.path, host=self.host, clock=clock)
        kernel.note(self.host, f"agent starts, incarnation {journal.incarnation} of journal {journal.journal_id}")
        life = f"{journal.journal_id}/{journal.incarnation}"
        driver = connect(self.hypervisor, process, self._find_begun, life)
        parts = (self.hypervisor, process, driver.servers, random.Random(f"{life}/devices"))
        extras = (self.hypervisor, process, self._find_begun, life, random.Random(f"{life}/platform"))
        driver = dataclasses.replace(
            driver,
            watchdog=Devices(*parts),
            resume=Resuming(*parts),
            watchdog_timer=Timers(*extras),
            host_dump=MemoryWriter(*extras),
        )
        dumps = HostDumps(driver, clock, DumpPlace(self.dumps))
        dumps.remove_unfinished()
        workers, is_open = 0, False
        wake = {name: Event(kernel) for name in ("queue", "observer", "reporter", "heartbeat")}
        queue = WakingQueue(wake["queue"].set)
        observer = Observer(journal, driver, clock, first_look=FIRST_LOOK, limit=OBSERVATION_LIMIT, on_state_change=wake["heartbeat"].set)

        def get_report(server: str) -> DiagnosticsReport:
            assert driver.diagnostics is not None
            return make_report(driver.diagnostics.collect_diagnostics(server))

        holdoff = HoldOff(clock, self._holdoff, observer.has_untold_nmi)
        actions = Actions(
            journal,
            [
                CrashDump(journal, driver, clock, holdoff),
                CollectDiagnostics(journal, driver, clock, get_report),
                SetWatchdog(journal, driver, clock),
                RemoveWatchdog(journal, driver, clock),
                Resume(journal, driver, clock),
                ResetWatchdogTimer(journal, driver, clock),
                TakeHostDump(journal, driver, clock, dumps, holdoff, limit=HOST_DUMP_BOUND),
            ],
            clock,
            max_clock_skew=MAX_CLOCK_SKEW,
            on_ended=observer.action_ended,
            on_given_up=queue.give_up,
        )
        reporter = Reporter(journal, SimulatedPublisher(self._broker, process, f"agent.{self.host}"), clock)
        journal.on_new_events(lambda patience: wake["reporter"].set())

        def queue_action(request: ActionRequest) -> None:
            queue.add(request.server, request.id, TURN_OF_KIND[request.kind])

        def give_out(action_ids: list[str]) -> None:
            for action_id in action_ids:
                with journal.transaction("read") as transaction:
                    request = transaction.get_action(action_id).request
                queue_action(request)

        drift = WatchdogDrift(journal, clock, reapply=False, queue_action=queue_action)
        inventory = Inventory(journal, driver, clock, interval=HEARTBEAT_INTERVAL, inventory_interval=INVENTORY_INTERVAL, drift=drift)

        def compare(servers: frozenset[str]) -> None:
            observer.enqueue_comparison(servers)
            wake["observer"].set()

        heartbeats = Heartbeats(
            inventory,
            SimulatedPublisher(self._broker, process, f"agent.{self.host}"),
            on_missed=compare,
            on_all_told=reporter.repeat_last,
        )

        def ask_inventory() -> None:
            inventory.request_full()
            wake["heartbeat"].set()

        verifier = None if self._trusted is None else CastVerifier(self._trusted, self.host, clock, cast_max_age=CAST_MAX_AGE)
        gate = CastGate(verifier, journal, clock, self.host)
        endpoint = Endpoint(
            journal,
            queue,
            clock,
            self.host,
            get_diagnostics=lambda server, history: DiagnosticsReply(report=get_report(server)),
            get_black_box=lambda black_box_id, part, offset: BlackBoxChunk(total=None),
            on_resend=reporter.resend,
            on_report_inventory=ask_inventory,
            on_ended=observer.action_ended,
            gate=gate,
        )
        rpc = oslo_messaging.RPCDispatcher([endpoint], serializer=None)

        def take_event(event: DriverEvent) -> None:
            observer.enqueue(event)
            wake["observer"].set()

        assert driver.events is not None
        with journal.transaction("read") as transaction:
            cursors = transaction.list_cursors()
        driver.events.subscribe(take_event, cursors)
        give_out(actions.recover())
        kernel.call_after(self._chance.uniform(0.0, 2.0), lambda: self.hypervisor.greet(process))

        def observe() -> None:
            while observer.step(0):
                kernel.sleep(0.0)
            observer.check_timers()
            _wait(wake["observer"], IDLE_WAIT)

        def search() -> None:
            if not observer.dump_search.step(0):
                kernel.sleep(IDLE_WAIT)

        def tell_up() -> None:
            body = {"release": RELEASE, "journal_id": journal.journal_id, "incarnation": journal.incarnation, "reason": "started"}
            with journal.transaction("agent.up") as transaction:
                transaction.append_event("agent.up", server=None, occurred_at=clock.now(), body=body)

        def work() -> None:
            action_id = queue.take(0)
            if action_id is None:
                wake["queue"].wait(5.0)
                wake["queue"].clear()
                return
            kernel.sleep(self._chance.choice((0.0, 0.0, 0.001, 0.5)))
            try:
                actions.run(action_id)
            finally:
                queue.done(action_id)

        def make_up_workers() -> None:
            """As ``workers.Workers`` does it with threads."""
            nonlocal workers
            while is_open and workers < WORKERS + queue.count_given_up():
                workers += 1
                kernel.spawn(process, repeat(kernel, process, work, (JournalFull,)))

        def report() -> None:
            try:
                sent = reporter.step()
            except PublishFailed:
                kernel.sleep(self._chance.uniform(0.5, 1.5))
                return
            if not sent:
                _wait(wake["reporter"], 5.0)
            if self._gathering:
                kernel.sleep(self._gathering * self._chance.random())

        def beat() -> None:
            try:
                heartbeats.step()
            except PublishFailed:
                kernel.sleep(1.0)
                return
            kernel.sleep(0.2)
            _wait(wake["heartbeat"], HEARTBEAT_INTERVAL)

        def sweep() -> None:
            gate.tell()
            actions.end_overdue()
            make_up_workers()
            give_out(actions.list_due())
            kernel.sleep(IDLE_WAIT)

        def listen() -> None:
            message = self._broker.take_rpc(process, self.host)
            if message is None:
                self._broker.wait_for_rpc(self.host, 5.0)
                return
            # More than an agent's one reader allows: two of them may overtake each other.
            kernel.spawn(process, lambda: self._dispatch(journal, rpc, message))

        for step in (observe, search, sweep):
            kernel.spawn(process, repeat(kernel, process, step, (JournalFull,)))
        while not self._broker.reaches(process):  # the host's lock comes first, and it is the broker's
            kernel.sleep(1.0)
        while not attempt(tell_up, (JournalFull,)):  # as the intake's loop does
            kernel.sleep(1.0)
        is_open = True
        make_up_workers()
        for step in (report, beat):
            kernel.spawn(process, repeat(kernel, process, step, (JournalFull,)))
        self._broker.declare_rpc_queue(self.host)
        kernel.spawn(process, repeat(kernel, process, listen, (JournalFull,)))

    def _dispatch(self, journal: Journal, rpc: Any, message: dict[str, Any]) -> None:
        self._kernel.sleep(self._chance.choice((0.0, 0.001, 0.01)))
        if message["method"] == "cancel_action":
            self._on_cancel(find_state(journal, message["args"]["action"]["id"]))
        with suppress(oslo_messaging.ExpectedException, oslo_messaging.NoSuchMethod, JournalFull):
            rpc.dispatch(Incoming(message))

    def _check_room(self) -> None:
        """Before each commit that changes something.

        :raises sqlite3.OperationalError: as SQLite does without room.
        """
        if self._kernel.time < self._full_until:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def _find_begun(self, server: str, kind: ActionKind = ActionKind.TRIGGER_CRASH_DUMP) -> str:
        """For which action the driver is called: one that is started, unless there is a bug."""
        assert self._journal is not None
        with self._journal.transaction("read") as transaction:
            begun = [*transaction.list_actions(ActionState.RECEIVED, server), *transaction.list_actions(ActionState.STARTED, server)]
        return [action.request.id for action in begun if action.request.kind is kind][-1]


def _wait(event: Event, timeout: float) -> None:
    event.wait(timeout)
    event.clear()
