"""``crashcart-engine``, life after life, over a store that outlives it. Several of them may run at once."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from api_gateway.dispatcher import Dispatcher
from api_gateway.echo import ECHO_INTERVAL, Echo
from api_gateway.outbox import StoredOutbox
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.senders import SenderCheck
from api_gateway.store import StoreBusy, StoreUnavailable
from api_gateway.sweep import Sweep
from compute_agent.contract.publisher import OutboxPump, PublishFailed
from tests.simulation.broker import LEASE, ConnectionLost, Consumer
from tests.simulation.kernel import Event, Kernel, Process
from tests.simulation.links import SimulatedPublisher
from tests.simulation.loops import attempt, repeat

if TYPE_CHECKING:
    from tests.simulation.gateway import Gateway, WatchedStore

MAX_CLOCK_SKEW = 2.0
HOST_DUMP_BOUND = 40.0
_ACCOUNT = "gateway"
CAST_SLOTS = 4
GAP_RETRY = 4.0
IDLE_WAIT = 3.0
"""Seconds between looks of an idle loop; a third of the looks that the engine takes makes a run twice as fast."""
SWEEP_INTERVAL = 5.0
_STORE_AWAY = (StoreBusy, StoreUnavailable)


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


class Engine:
    """One place where an engine runs. ``process`` is its present or last life, ``since`` when that began to run or was thawed."""

    def __init__(self, gateway: "Gateway", name: str, store: "WatchedStore", chance: random.Random, gathering: float) -> None:
        """:param gathering: seconds at most for which the recorder lets events gather"""
        self.name = name
        self.process = Process(name)
        self.process.alive = False
        self.since = 0.0
        self.wake_dispatcher: Callable[[], None] = lambda: None
        self._gateway = gateway
        self._kernel = gateway.kernel
        self._broker = gateway.broker
        self._store = store
        self._chance = chance
        self._gathering = gathering
        self._lives = 0

    def start(self) -> None:
        """Begin a life, unless one is lived."""
        if self.process.alive:
            return
        self._lives += 1
        process = self.process = Process(self.name)
        self.since = self._kernel.time
        self._kernel.note(self.name, f"starts ({self._lives})")
        self._kernel.spawn(process, repeat_until_begun(self._kernel, lambda: self._live(process)))

    def end_life(self) -> None:
        """After a kill: what the operating system lets go of."""
        self._broker.forget(self.process)

    def _live(self, process: Process) -> None:
        gateway, store, clock = self._gateway, self._store, self._gateway.clock
        store.process = process
        caster = gateway.create_caster(process)
        wake = Event(self._kernel)
        dispatcher = Dispatcher(
            store,
            caster,
            clock,
            owner=f"dispatcher-{self.name}-{self._lives}",
            slots=CastTasks(self._kernel, process, on_free=wake.set),
            lease=LEASE,
        )
        ask_slots = CastTasks(self._kernel, process)
        senders = SenderCheck([_ACCOUNT], store.store_id)
        recorder = Recorder(store, caster, clock, slots=ask_slots, senders=senders, on_agent_restarted=wake.set)
        sweep = Sweep(
            store,
            caster,
            clock,
            slots=ask_slots,
            max_clock_skew=MAX_CLOCK_SKEW,
            host_dump_bound=HOST_DUMP_BOUND,
            gap_retry=GAP_RETRY,
        )
        pump = OutboxPump(StoredOutbox(store, clock, publisher_id="gateway"), SimulatedPublisher(self._broker, process, _ACCOUNT))
        echo = Echo(store, SimulatedPublisher(self._broker, process, _ACCOUNT), clock, publisher_id="gateway")
        self.wake_dispatcher = wake.set

        woken = False

        def dispatch() -> None:
            nonlocal woken
            due_in = dispatcher.step(woken=woken)
            woken = wake.wait(IDLE_WAIT if due_in is None else min(due_in, IDLE_WAIT))
            wake.clear()
            if self._gathering:
                self._kernel.sleep(self._gathering / 4 * self._chance.random())

        def sweep_once() -> None:
            for duty in sweep.duties:
                attempt(duty, _STORE_AWAY)
            self._kernel.sleep(SWEEP_INTERVAL)

        def pump_once() -> None:
            try:
                sent = pump.step()
            except PublishFailed:
                sent = 0
            if not sent:
                self._kernel.sleep(IDLE_WAIT)

        def consume_events() -> None:
            self._consume(process, self._broker.events, recorder.record)

        def consume_heartbeats() -> None:
            self._consume(process, self._broker.heartbeats, recorder.record_heartbeats)

        def send_echo() -> None:
            with suppress(PublishFailed):
                echo.step()
            self._kernel.sleep(2 * ECHO_INTERVAL)  # rarer than the engine's, for the sake of the run's length; still no break

        for step in (dispatch, sweep_once, pump_once, consume_events, consume_heartbeats, send_echo):
            self._kernel.spawn(process, repeat(self._kernel, process, step, _STORE_AWAY))

    def _consume(self, process: Process, queue: Any, record: Callable[[Sequence[Received]], None]) -> None:
        """One connection's life, as ``consumer.QueueConsumer`` leads it: a store that takes nothing ends it too.

        :raises StoreBusy, StoreUnavailable: what was received goes back.
        """
        try:
            consumer = Consumer(self._broker, process, queue)
        except ConnectionLost:
            self._kernel.sleep(0.2 if self._gateway.count_engines() == 1 else 2.0)  # as a rule the other one has it
            return
        try:
            while True:
                batch = consumer.receive(self._chance.choice((1, 3, 100, 100, 100) if self._gathering else (1, 3, 100)), 10.0)
                if batch:
                    record(batch)
                    self._broker.pause(process)
                    consumer.acknowledge()
                    self._kernel.sleep(self._gathering * self._chance.random())
        except ConnectionLost:
            self._kernel.sleep(0.2)
        except _STORE_AWAY:
            consumer.close()
            raise


def repeat_until_begun(kernel: Kernel, begin: Callable[[], None]) -> Callable[[], None]:
    """What a supervisor does with a process that cannot start because the store is away."""

    def run() -> None:
        while not attempt(begin, _STORE_AWAY):
            kernel.sleep(1.0)

    return run
