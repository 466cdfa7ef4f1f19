"""One host for the tests of what is observed: hypervisor, journal, observer and actions, under a clock that moves when told."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from compute_agent.actions import Actions
from compute_agent.contract.models import ActionKind, ActionRequest, Observation
from compute_agent.crash_dump import CrashDump, HoldOff
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.journal import JournalledAction
from compute_agent.observer import Observer
from tests.fakes import Counter, FakeClock
from tests.unit.agent.action_parts import CrashingJournal

HOST = "h1"


class Bench:
    """One host: hypervisor, journal, observer, actions. ``restart()`` is a kill -9 of the agent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.hypervisor = FakeHypervisor(self.clock)
        self.changes = 0
        self.count = 0
        self.lives = 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        self.journal = CrashingJournal.open(self.path, host=HOST, clock=self.clock, new_id=Counter(f"id{self.count}-{self.lives}"))
        self.observer = Observer(
            self.journal, self.hypervisor.driver, self.clock, first_look=60, limit=1800, on_state_change=self.note_change
        )
        self.actions = Actions(
            self.journal,
            [
                CrashDump(
                    self.journal,
                    self.hypervisor.driver,
                    self.clock,
                    HoldOff(self.clock, 600, self.observer.has_untold_nmi),
                )
            ],
            self.clock,
            max_clock_skew=2,
            on_ended=self.observer.action_ended,
        )
        with self.journal.transaction("test") as transaction:
            cursors = transaction.list_cursors()
        self.hypervisor.subscribe(self.observer.enqueue, cursors)
        self.hypervisor.open()

    def lose_events(self) -> None:
        """Those that wait for the observer."""
        while self.observer._events.take(0) is not None:
            pass

    def note_change(self) -> None:
        self.changes += 1

    def restart(self, away: float = 0.0) -> None:
        self.kill()
        self.clock.advance(away)
        self.start()
        self.actions.recover()
        self.drain()

    def kill(self) -> None:
        self.hypervisor.close()
        self.journal.close()

    def drain(self) -> None:
        while self.observer.step(0):
            pass
        while self.observer.dump_search.step(0):
            pass

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.drain()
        self.observer.check_timers()

    def make_server(self, **keywords: Any) -> str:
        server = self.hypervisor.make_server(**keywords)
        self.drain()
        return server

    def receive(self, server: str) -> str:
        self.count += 1
        action_id = f"req-00000000-0000-0000-0000-{self.count:012d}"
        with self.journal.transaction("test") as transaction:
            known = transaction.find_known_server(server)
            assert known is not None
            request = ActionRequest(
                id=action_id,
                kind=ActionKind.TRIGGER_CRASH_DUMP,
                server=server,
                server_generation=known.server.generation,
                host=HOST,
                sent_at=self.clock.now(),
                deadline=self.clock.now() + timedelta(seconds=30),
                journal_id=self.journal.journal_id,
            )
            transaction.add_action(request, self.clock.now())
        return action_id

    def signal(self, server: str) -> str:
        """A crash dump up to its ending; events that it caused are still queued."""
        action_id = self.receive(server)
        self.actions.run(action_id)
        return action_id

    def get(self, action_id: str) -> JournalledAction:
        with self.journal.transaction("test") as transaction:
            return transaction.get_action(action_id)

    def observe(self, action_id: str) -> tuple[Observation | None, bool]:
        action = self.get(action_id)
        return action.observation, action.observation_final

    def events(self, prefix: str = "") -> list[SimpleNamespace]:
        with self.journal.transaction("test") as transaction:
            rows = transaction.list_outbox(1, transaction.get_last_sequence())
        found = [row for row in rows if row.event_type.startswith(prefix)]
        return [SimpleNamespace(type=row.event_type, id=row.message_id, severity=row.severity, **row.payload) for row in found]

    def emit(self, kind: DriverEventKind, server: str, before: float = 0.0) -> None:
        """An event that came about ``before`` seconds ago."""
        self.observer.enqueue(DriverEvent(kind, server, self.clock.now() - timedelta(seconds=before), "test"))
        self.drain()

    def find_server(self, server: str) -> Any:
        with self.journal.transaction("test") as transaction:
            entry = transaction.list_known_servers().get(server)
        return None if entry is None else entry.server

    def is_held_off(self, server: str) -> bool:
        with self.journal.transaction("test") as transaction:
            signal = transaction.find_signal(server)
        return signal is not None and not signal.cleared
