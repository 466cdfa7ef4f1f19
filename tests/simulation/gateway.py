"""The gateway as ``crashcart-engine`` composes it, and the accepting half of the API, over one store that outlives their processes."""

import functools
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from oslo_config import cfg
from sqlalchemy import Connection

from api_gateway.dispatcher import Dispatcher
from api_gateway.echo import ECHO_INTERVAL, Echo
from api_gateway.outbox import StoredOutbox
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.senders import SenderCheck
from api_gateway.store import Store
from api_gateway.sweep import Sweep
from compute_agent.contract.publisher import OutboxPump, PublishFailed
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.signing import CastSigner
from compute_agent.contract.transport import oslo_messaging, register_messaging_options
from tests.simulation.broker import Broker, ConnectionLost, Consumer, RpcDriver, SimulatedPublisher
from tests.simulation.kernel import START, Event, HostClock, Kernel, Process

CommitWatch = Callable[[Process, str, str], None]
"""(process, label, "before" | "after"): called around each commit; may kill the process."""

MAX_CLOCK_SKEW = 2.0
_ACCOUNT = "gateway"
CAST_SLOTS = 4
GAP_RETRY = 4.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IDLE_WAIT = 3.0
"""Seconds between looks of an idle loop; a third of the looks that the engine takes makes a run twice as fast."""
SWEEP_INTERVAL = 5.0


class WatchedStore(Store):
    """The production store; each commit is told to whoever plans crashes."""

    def __init__(self, url: str, process: Process, watch: CommitWatch) -> None:
        super().__init__(url)
        self.process = process
        self._watch = watch

    @contextmanager
    def write(self) -> Iterator[Connection]:
        label = "store." + sys._getframe(2).f_code.co_name.strip("_")
        self.process.check()
        with super().write() as c:
            yield c
            self.process.check()
            self._watch(self.process, label, "before")
        self._watch(self.process, label, "after")


class CastTasks:
    """Slots whose jobs are tasks: a cast that a broker in alarm holds up holds up nobody else. Implements CastSlots."""

    def __init__(self, kernel: Kernel, process: Process, size: int = CAST_SLOTS, *, on_free: Callable[[], object] = lambda: None) -> None:
        self._on_free = on_free
        self._kernel = kernel
        self._process = process
        self._size = size
        self._busy = 0

    def count_free(self) -> int:
        return self._size - self._busy

    def start(self, job: Callable[[], None]) -> None:
        self._busy += 1

        def run() -> None:
            try:
                job()
            finally:
                self._busy -= 1
                self._on_free()

        self._kernel.spawn(self._process, run)


@functools.cache
def _get_messaging_options() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    register_messaging_options(conf)
    return conf


def create_rpc_client(broker: Broker, process: Process, signer: CastSigner | None = None) -> ComputeAgentAPI:
    """The production client; only the driver below oslo.messaging is simulated."""
    transport = oslo_messaging.transport.RPCTransport(RpcDriver(_get_messaging_options(), broker, process))
    return ComputeAgentAPI(transport, signer=signer)


class Gateway:
    """Engine processes come and go over one database file."""

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        template: Path,
        folder: Path,
        watch: CommitWatch,
        chance: random.Random,
        *,
        gathering: float = 0.0,
    ) -> None:
        """:param gathering: seconds at most for which the recorder lets events gather"""
        self.kernel = kernel
        self.broker = broker
        self.clock = HostClock(kernel)
        self.path = folder / "gateway.sqlite"
        shutil.copyfile(template, self.path)
        self.url = f"sqlite:///{self.path}"
        self._chance = chance
        self._gathering = gathering
        self._lives = 0
        self.engine: Process | None = None
        self.signer: CastSigner | None = None
        self.reader = Store(self.url)
        self._watcher = sqlite3.connect(self.path)
        # One each for all lives of a process: what is lost with a life are its transactions, and those are rolled back.
        self.api_store = WatchedStore(self.url, Process("api"), watch)
        self._engine_store = WatchedStore(self.url, Process("engine"), watch)

    def start_engine(self) -> Process:
        """One life of ``crashcart-engine``."""
        self._lives += 1
        process = self.engine = Process("engine")
        store = self._engine_store
        store.process = process
        caster = create_rpc_client(self.broker, process, self.signer)
        wake = Event(self.kernel)
        dispatcher = Dispatcher(
            store,
            caster,
            self.clock,
            owner=f"dispatcher-{self._lives}",
            slots=CastTasks(self.kernel, process, on_free=wake.set),
        )
        ask_slots = CastTasks(self.kernel, process)
        senders = SenderCheck([_ACCOUNT], store.store_id)
        recorder = Recorder(store, caster, self.clock, slots=ask_slots, senders=senders, on_agent_restarted=wake.set)
        sweep = Sweep(
            store,
            caster,
            self.clock,
            slots=ask_slots,
            max_clock_skew=MAX_CLOCK_SKEW,
            gap_retry=GAP_RETRY,
        )
        pump = OutboxPump(StoredOutbox(store, self.clock, publisher_id="gateway"), SimulatedPublisher(self.broker, process, _ACCOUNT))
        echo = Echo(store, SimulatedPublisher(self.broker, process, _ACCOUNT), self.clock, publisher_id="gateway")
        self._wake_dispatcher = wake.set

        def dispatch() -> None:
            due_in = dispatcher.step()
            wake.wait(IDLE_WAIT if due_in is None else min(due_in, IDLE_WAIT))
            wake.clear()
            if self._gathering:
                self.kernel.sleep(self._gathering / 4 * self._chance.random())

        def sweep_once() -> None:
            for duty in sweep.duties:
                duty()
            self.kernel.sleep(SWEEP_INTERVAL)

        def pump_once() -> None:
            try:
                sent = pump.step()
            except PublishFailed:
                sent = 0
            if not sent:
                self.kernel.sleep(IDLE_WAIT)

        def consume_events() -> None:
            self._consume(process, self.broker.events, recorder.record)

        def consume_heartbeats() -> None:
            self._consume(process, self.broker.heartbeats, recorder.record_heartbeats)

        def send_echo() -> None:
            with suppress(PublishFailed):
                echo.step()
            self.kernel.sleep(2 * ECHO_INTERVAL)  # rarer than the engine's, for the sake of the run's length; still no break

        for step in (dispatch, sweep_once, pump_once, consume_events, consume_heartbeats, send_echo):
            self.kernel.spawn(process, repeat(process, step))
        self.kernel.note("engine", f"starts ({self._lives})")
        return process

    def end_life(self) -> None:
        """After a kill: what the operating system lets go of."""
        assert self.engine is not None
        self.broker.forget(self.engine)

    def wake_dispatcher(self) -> None:
        """The API's datagram, which may be lost."""
        if self.engine is not None and self.engine.alive and self._chance.random() < 0.9:
            self._wake_dispatcher()

    def list_open_past(self, time: float, grace: float) -> list[str]:
        """Actions that have not ended and whose deadline and grace lie before that virtual second; of a watchdog's change that was begun
        the grace counts twice, for the former device to be put back."""
        once, twice = (int((START - _EPOCH + timedelta(seconds=time - times * grace)) / timedelta(microseconds=1)) for times in (1, 2))
        query = (
            "SELECT id FROM actions WHERE state IN ('accepted', 'received', 'started')"
            " AND deadline < CASE WHEN state = 'started' AND kind LIKE '%_watchdog' THEN ? ELSE ? END"
        )
        return [row[0] for row in self._watcher.execute(query, (twice, once))]

    def _consume(self, process: Process, queue: object, record: Callable[[Sequence[Received]], None]) -> None:
        """One connection's life, as ``consumer.QueueConsumer`` leads it."""
        try:
            consumer = Consumer(self.broker, process, queue)  # type: ignore[arg-type]
            while True:
                batch = consumer.receive(self._chance.choice((1, 3, 100, 100, 100) if self._gathering else (1, 3, 100)), 10.0)
                if batch:
                    record(batch)
                    self.broker.pause(process)
                    consumer.acknowledge()
                    self.kernel.sleep(self._gathering * self._chance.random())
        except ConnectionLost:
            self.kernel.sleep(0.2)

    def dispose(self) -> None:
        self.reader.dispose()
        self._watcher.close()
        self.api_store.dispose()
        self._engine_store.dispose()


def repeat(process: Process, step: Callable[[], None]) -> Callable[[], None]:
    """A loop of a composition root: the step, again and again, while the process lives."""

    def run() -> None:
        while process.alive:
            step()

    return run
