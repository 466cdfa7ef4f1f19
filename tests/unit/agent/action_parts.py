"""An agent's action path on a fake hypervisor, put together for tests; and a journal that crashes at a chosen commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from compute_agent.actions import ActionQueue, Actions
from compute_agent.black_box_files import BlackBoxFiles
from compute_agent.collector import Collector
from compute_agent.contract.models import ActionKind, ActionRequest, EventRange, Observation, PowerState, Server
from compute_agent.crash_dump import CrashDump, HoldOff
from compute_agent.diagnostics_action import CollectDiagnostics
from compute_agent.drivers.base import Driver
from compute_agent.drivers.fake import FakeHypervisor, NmiEffect
from compute_agent.endpoint import Endpoint
from compute_agent.host_dump_action import TakeHostDump
from compute_agent.host_dumps import DumpPlace, HostDumps
from compute_agent.journal import Journal, JournalledAction, JournalTransaction, OutboxRow
from compute_agent.kinds import Kind
from compute_agent.reset_timer_action import ResetWatchdogTimer
from compute_agent.resume_action import Resume
from compute_agent.sampler import Sampler
from compute_agent.watchdog_actions import RemoveWatchdog, SetWatchdog
from tests.fakes import Counter, FakeClock

HOST = "host-1"
HOLDOFF = 600.0
MAX_CLOCK_SKEW = 2.0
COLLECTION_LIMIT = 30.0
SHORT_COLLECTION_LIMIT = 0.25
"""Where a collection hangs."""
BOXES_QUOTA = 1 << 20


class Crash(BaseException):
    """The process dies here. No product code catches it."""


class CrashingJournal(Journal):
    """Dies right before or right after the commit with number ``crash_at`` (from 0), counted in ``commits``."""

    crash_at: int | None = None
    crash_after_commit = False
    commits = 0

    def _commit(self, label: str) -> None:
        number = self.commits
        self.commits += 1
        if number == self.crash_at and not self.crash_after_commit:
            raise Crash(f"before {label}")
        super()._commit(label)
        if number == self.crash_at:
            raise Crash(f"after {label}")


def make_id(number: int = 1) -> str:
    return f"req-00000000-0000-4000-8000-{number:012d}"


class Agent:
    """One agent over one journal file; :meth:`restart` is a kill and a new start over the same file and the same hypervisor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.hypervisor = FakeHypervisor(self.clock, seed="test")
        self.driver = self.hypervisor.driver
        self.holdoff = HOLDOFF
        self.place = DumpPlace()
        self.dump_limit = 3600.0
        self.ended: list[str] = []
        self.resend: list[EventRange] = []
        self.inventory_reports = 0
        self.new_id = Counter()
        self.start()

    def start(self) -> None:
        self.journal = CrashingJournal.open(self.path, host=HOST, clock=self.clock, new_id=self.new_id)
        self.use_driver(self.driver)

    def use_driver(self, driver: Driver) -> None:
        self.driver = driver
        self.queue = ActionQueue()
        self.files = BlackBoxFiles(self.path.parent / "black_boxes", BOXES_QUOTA)
        self.sampler = Sampler(driver.diagnostics, self.clock, list_servers=self.list_known)
        self.collector = Collector(driver, self.sampler, self.clock, limit=COLLECTION_LIMIT, threads=2)
        self.actions = Actions(
            self.journal,
            self._make_kinds(driver),
            self.clock,
            max_clock_skew=MAX_CLOCK_SKEW,
            on_ended=self._note_ending,
            on_given_up=self.queue.give_up,
        )
        self.endpoint = Endpoint(
            self.journal,
            self.queue,
            self.clock,
            HOST,
            get_diagnostics=lambda server, history: self.collector.get_reply(server, history=history),
            get_black_box=self.files.read,
            on_resend=self.resend.append,
            on_report_inventory=self._count_report,
            on_ended=self._note_ending,
        )

    def _make_kinds(self, driver: Driver) -> list[Kind]:
        parts = (self.journal, driver, self.clock)
        holdoff = HoldOff(self.clock, self.holdoff)
        self.dumps = HostDumps(driver, self.clock, self.place)
        return [
            CrashDump(*parts, holdoff),
            CollectDiagnostics(*parts, self.collector.get_report),
            TakeHostDump(*parts, self.dumps, holdoff, limit=self.dump_limit),
            SetWatchdog(*parts),
            RemoveWatchdog(*parts),
            Resume(*parts),
            ResetWatchdogTimer(*parts),
        ]

    def use_place(self, place: DumpPlace) -> None:
        """Where host dumps go from now on."""
        self.place = place
        self.use_driver(self.driver)

    def restart(self) -> list[str]:
        """What :meth:`Actions.recover` says must be queued."""
        self.journal.close()
        self.start()
        return self.actions.recover()

    def make_server(self, effect: NmiEffect = NmiEffect.SURVIVE, power_state: PowerState = PowerState.RUNNING) -> str:
        """A server that the hypervisor has and the inventory knows, in its first generation."""
        server = self.hypervisor.make_server(effect=effect, power_state=power_state)
        self.know(server)
        return server

    def know(self, server: str, generation: int = 1) -> None:
        with self.change() as transaction:
            transaction.put_known_server(
                Server(
                    id=server,
                    name="s",
                    project="demo",
                    power_state=PowerState.RUNNING,
                    state_at=self.clock.now(),
                    generation=generation,
                    instance_name="i",
                    created_at=self.clock.now(),
                )
            )

    def make_request(self, server: str, number: int = 1, *, seconds: float = 30, **fields: Any) -> ActionRequest:
        return ActionRequest(
            **{
                "id": make_id(number),
                "kind": ActionKind.TRIGGER_CRASH_DUMP,
                "server": server,
                "server_generation": 1,
                "host": HOST,
                "project": "demo",
                "user": "ann",
                "sent_at": self.clock.now(),
                "deadline": self.clock.now() + timedelta(seconds=seconds),
                "journal_id": self.journal.journal_id,
                **fields,
            }
        )

    def cast(self, request: ActionRequest) -> None:
        """What the broker delivers."""
        getattr(self.endpoint, request.kind)({}, request.to_wire())

    def work(self) -> None:
        """What the workers do until nothing is left to do."""
        while (action_id := self.queue.take(0)) is not None:
            self.actions.run(action_id)
            self.queue.done(action_id)

    def do(self, request: ActionRequest) -> JournalledAction:
        """Cast it, work it off, and give back what the journal says of it."""
        self.cast(request)
        self.work()
        return self.get(request.id)

    def list_known(self) -> set[str]:
        with self.change() as transaction:
            return transaction.list_known_ids()

    @contextmanager
    def change(self) -> Iterator[JournalTransaction]:
        with self.journal.transaction("test") as transaction:
            yield transaction

    def get(self, action_id: str) -> JournalledAction:
        with self.change() as transaction:
            return transaction.get_action(action_id)

    def code(self, action_id: str) -> str:
        result = self.get(action_id).result
        assert result is not None
        return result.code

    def observation(self, action_id: str) -> Observation | None:
        return self.get(action_id).observation

    def list_events(self, event_type: str | None = None) -> list[OutboxRow]:
        with self.change() as transaction:
            rows = transaction.list_outbox(1, 10**9)
        return [row for row in rows if event_type in (None, row.event_type)]

    def list_event_types(self) -> list[str]:
        return [row.event_type for row in self.list_events()]

    def mark_all_sent(self) -> None:
        with self.change() as transaction:
            transaction.mark_sent([row.sequence for row in transaction.list_unsent(10**6)], self.clock.now())

    def list_unsent(self) -> list[OutboxRow]:
        with self.change() as transaction:
            return transaction.list_unsent(10**6)

    def _note_ending(self, action: JournalledAction) -> None:
        self.ended.append(action.request.id)

    def _count_report(self) -> None:
        self.inventory_reports += 1
