"""``crashcart-engine``: dispatcher, recorder, sweep, outbox, deliveries and event stream in one process, or one of them alone.

The composition root: threads, sockets and connections of the gateway's background work begin and end here. Every part starts and
lives while the broker is away. Several engines may run: leases, the queue's single active consumer and idempotent steps keep them apart.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import kombu
from oslo_config import cfg

from api_gateway.cast_signing import create_signer
from api_gateway.cast_slots import CastThreads
from api_gateway.config import create_process_name, load_config
from api_gateway.consumer import QueueConsumer
from api_gateway.deliveries.deliverer import Deliverer
from api_gateway.deliveries.pace import Pace
from api_gateway.deliveries.wiring import create_senders, read_back_off
from api_gateway.dispatcher import Dispatcher
from api_gateway.echo import ECHO_INTERVAL, Echo
from api_gateway.engine_options import COMMAND_LINE_OPTIONS, ROLES
from api_gateway.fleet_versions import FleetVersions
from api_gateway.loops import Loop
from api_gateway.open_files import allow_open_files
from api_gateway.outbox import StoredOutbox
from api_gateway.pins import read_pin
from api_gateway.received import Received
from api_gateway.recorder import Recorder
from api_gateway.rpc_versions import Speech
from api_gateway.senders import find_sender_check
from api_gateway.shelf import ShelfLimits
from api_gateway.store import Store, StoreError
from api_gateway.stream.listener import SPARE_CONNECTIONS, StreamListener
from api_gateway.sweep import Sweep
from api_gateway.wake import WakeReceiver, WakeSender
from compute_agent.contract.broker import BrokerAddress, find_tls
from compute_agent.contract.clock import Clock, SystemClock
from compute_agent.contract.logs import set_up_log
from compute_agent.contract.notifications import DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE, RECORDER_QUEUES
from compute_agent.contract.outage import Outage
from compute_agent.contract.publisher import OutboxPump, Publisher, PublishFailed
from compute_agent.contract.rpcapi import ActionCaster, ComputeAgentAPI
from compute_agent.contract.threads import take_short_turns
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options

LOG = logging.getLogger(__name__)

_IDLE_WAIT = 1.0
"""Seconds after which the dispatcher looks without having been woken."""
_CASTS_SPACING = 0.02
"""Seconds between two of its looks: of a busy fleet what became of some casts and what is next come within it, and share a transaction."""
_OUTBOX_INTERVAL = 0.5
_HEARTBEATS_GATHER = 0.1
"""Seconds that heartbeats may wait for others: a thousand hosts send thirty a second, and as many commits would hold up those of events."""
_EVENTS_SPACING = 0.02
"""Seconds between two batches of events: those of a busy fleet come from everywhere, a few at a time, and each batch costs a commit."""
_ASK_THREADS = 2
_OTHER_FILES = 500
"""That the other roles may have open beside the stream's connections: their own to store, broker and targets."""
_STOP_TIMEOUT = 5.0
"""Seconds that an ordered stop may take; what is held longer (by a broker in alarm) is left behind, nothing is lost by it."""
_MOMENT = 0.1
"""What a thread without a job needs to end."""
_WATCH_INTERVAL = 1.0


class Engine:
    """The chosen roles, wired up; nothing runs before :meth:`start`.

    :param caster: to cast actions with; None for the RPC transport of ``conf``
    :raises OSError: a socket cannot be bound, or a file with authorities cannot be read.
    :raises ValueError: options contradict each other.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        store: Store,
        *,
        roles: Sequence[str] = ROLES,
        clock: Clock | None = None,
        caster: ActionCaster | None = None,
    ) -> None:
        register_messaging_options(conf)
        self._conf = conf
        self._store = store
        self._clock = clock or SystemClock()
        self._caster = caster
        self._speech = Speech(read_pin(conf), FleetVersions(store, self._clock))
        self._roles = frozenset(roles)
        self._closing = ExitStack()
        self._pools: list[CastThreads] = []
        self._finishing: list[Callable[[], None]] = []
        self._loops: list[Loop] = []
        self._ask_slots: CastThreads | None = None
        self._wake_dispatcher: Callable[[], object] = lambda: None
        self._on_recorded: list[Callable[[], object]] = []
        try:
            # In this order: the dispatcher's own wake-up is used by the recorder.
            wires = (
                self._wire_dispatcher,
                self._wire_recorder,
                self._wire_sweep,
                self._wire_outbox,
                self._wire_deliveries,
                self._wire_stream,
            )
            for role, wire in zip(ROLES, wires, strict=True):
                if role in self._roles:
                    wire()
        except BaseException:
            self._closing.close()
            raise

    def start(self) -> None:
        for loop in self._loops:
            loop.start()
        LOG.info("crashcart-engine runs: %s", ", ".join(loop.name for loop in self._loops))

    def find_dead_loop(self) -> str | None:
        """The name of a thread that ended by itself, which none may."""
        return next((loop.name for loop in self._loops if not loop.is_alive), None)

    def stop(self, timeout: float = _STOP_TIMEOUT) -> list[str]:
        """Ordered stop: no new casts, begun ones end, batches at hand are recorded and acknowledged.

        :returns: names of what was still held up after ``timeout`` seconds and left behind.
        """
        give_up_at = time.monotonic() + timeout
        for loop in self._loops:
            loop.stop()
        held = [loop.name for loop in self._loops if not loop.join(max(give_up_at - time.monotonic(), 0.0))]
        for pool in self._pools:
            pool.stop()
        held += [pool.name for pool in self._pools if pool.join(max(give_up_at - time.monotonic(), _MOMENT))]
        # Neither a database that is away nor a frozen broker answers a farewell: on threads of their own, which may be left behind as well.
        if not _has_ended_by(give_up_at, "finishing", self._finish):
            held.append("finishing")
        if not held:
            if not _has_ended_by(give_up_at, "closing", self._closing.close):
                held.append("closing")
            self._store.dispose()
        return held

    def _finish(self) -> None:
        for finish in self._finishing:
            try:
                finish()
            except StoreError as error:
                LOG.warning("what became of the last casts was not noted, they count as perhaps delivered: %s", error)

    def _wire_dispatcher(self) -> None:
        options = self._conf.dispatcher
        receiver = WakeReceiver(options.wake_socket or None)
        self._closing.callback(receiver.close)
        self._wake_dispatcher = receiver.wake
        dispatcher = Dispatcher(
            self._store,
            self._get_caster(),
            self._clock,
            owner=create_process_name("dispatcher"),
            slots=self._add_pool("cast", options.workers, on_free=receiver.wake),
            lease=options.lease,
            received_timeout=options.received_timeout,
            speech=self._speech,
        )

        self._finishing.append(dispatcher.finish)

        woken = False

        def step() -> None:
            nonlocal woken
            begun_at = time.monotonic()
            due_in = dispatcher.step(woken=woken)
            woken = receiver.wait(_IDLE_WAIT if due_in is None else min(due_in, _IDLE_WAIT))
            rest = begun_at + _CASTS_SPACING - time.monotonic()
            if rest > 0:
                loop.pause(rest)
                woken = receiver.wait(0.0) or woken  # what wakes us meanwhile is seen by the next step

        loop = self._add_loop("dispatcher", step, wake=receiver.wake)

    def _wire_recorder(self) -> None:
        if self._conf.dispatcher.wake_socket and "dispatcher" not in self._roles:
            sender = WakeSender(self._conf.dispatcher.wake_socket)
            self._closing.callback(sender.close)
            self._wake_dispatcher = sender.wake
        recorder = Recorder(
            self._store,
            self._get_caster(),
            self._clock,
            slots=self._get_ask_slots(),
            senders=find_sender_check(self._conf, self._store.store_id),
            shelf=ShelfLimits(self._conf.recorder.shelf_max_messages, self._conf.recorder.shelf_max_bytes),
            on_agent_restarted=lambda: self._wake_dispatcher(),
        )

        def record(messages: Sequence[Received], source: str = RECORDER_QUEUES[0].name) -> None:
            recorder.record(messages, source)
            for wake in self._on_recorded:
                wake()

        self._add_consumer(RECORDER_QUEUES, record, spacing=_EVENTS_SPACING)
        self._add_consumer([DEAD_LETTER_QUEUE], partial(record, source=DEAD_LETTER_QUEUE.name))
        self._add_consumer([HEARTBEAT_QUEUE], recorder.record_heartbeats, gathering=_HEARTBEATS_GATHER)
        self._add_echo()

    def _wire_sweep(self) -> None:
        options = self._conf.sweep
        sweep = Sweep(
            self._store,
            self._get_caster(),
            self._clock,
            slots=self._get_ask_slots(),
            max_clock_skew=options.max_clock_skew,
            host_dump_bound=options.host_dump_bound,
            missing_grace=options.missing_grace,
            gap_tries=options.gap_tries,
            gap_retry=options.gap_retry,
            outbox_keep=options.outbox_keep,
            events_keep=options.events_keep,
        )

        def step() -> None:
            for duty in sweep.duties:
                loop.attempt(duty)
            loop.pause(options.interval)

        loop = self._add_loop("sweep", step)

    def _wire_outbox(self) -> None:
        publisher = Publisher(self._create_address("outbox"))
        pump = OutboxPump(StoredOutbox(self._store, self._clock, publisher_id=create_process_name("gateway")), publisher)
        outage = Outage("the gateway's own events wait")

        def step() -> None:
            try:
                sent = pump.step()
            except PublishFailed as error:
                outage.begin(error)
                sent = 0
            else:
                outage.end()
                publisher.keep_alive()
            if sent == 0:
                loop.pause(_OUTBOX_INTERVAL)

        loop = self._add_loop("outbox", step, wake=publisher.abort)
        self._closing.callback(publisher.close)

    def _wire_deliveries(self) -> None:
        options = self._conf.deliveries
        is_told = "recorder" in self._roles
        pace = Pace(is_told=is_told)
        if is_told:
            self._on_recorded.append(pace.note_news)
        deliverer = Deliverer(
            self._store,
            self._clock,
            owner=create_process_name("deliveries"),
            slots=self._add_pool("delivery", options.workers, on_free=pace.hurry),
            senders=create_senders(self._conf, self._clock),
            back_off=read_back_off(self._conf),
            lease=options.lease,
            keep=options.keep,
        )

        def step() -> None:
            pace.begin_look()
            for duty in deliverer.duties:
                loop.attempt(duty)
            pace.wait(is_behind=deliverer.is_behind)

        loop = self._add_loop("deliveries", step, wake=pace.hurry)

    def _wire_stream(self) -> None:
        options = self._conf.stream
        allow_open_files(options.max_connections + SPARE_CONNECTIONS + _OTHER_FILES)
        listener = StreamListener(
            self._store,
            self._clock,
            host=options.listen_host,
            port=options.listen_port,
            max_connections=options.max_connections,
            lifetime=options.lifetime,
        )
        self._closing.callback(listener.close)
        self._on_recorded.append(listener.wake)
        self._add_loop("stream", listener.run, wake=listener.stop)

    def _add_loop(self, name: str, step: Callable[[], None], *, wake: Callable[[], None] = lambda: None) -> Loop:
        loop = Loop(name, step, wake=wake)
        self._loops.append(loop)
        return loop

    def _add_echo(self) -> None:
        publisher = Publisher(self._create_address("echo"))
        echo = Echo(self._store, publisher, self._clock, publisher_id=create_process_name("gateway"))
        outage = Outage("no echo, so no agent's silence counts")

        def step() -> None:
            try:
                echo.step()
            except PublishFailed as error:
                outage.begin(error)
                publisher.keep_alive()
            else:
                outage.end()
            loop.pause(ECHO_INTERVAL)

        loop = self._add_loop("echo", step, wake=publisher.abort)
        self._closing.callback(publisher.close)

    def _add_consumer(
        self,
        bindings: Sequence[kombu.Queue],
        record: Callable[[Sequence[Received]], None],
        *,
        gathering: float = 0.0,
        spacing: float = 0.0,
    ) -> None:
        consumer = QueueConsumer(
            self._create_address(bindings[0].name).open_link,
            bindings,
            record,
            try_store=self._try_store,
            batch_size=self._conf.recorder.batch_size,
            gathering=gathering,
            spacing=spacing,
        )
        self._add_loop(f"consumer {consumer.name}", consumer.run, wake=consumer.stop)

    def _create_address(self, name: str) -> BrokerAddress:
        return BrokerAddress(self._conf.transport_url, name=create_process_name(name), tls=find_tls(self._conf))

    def _try_store(self) -> None:
        with self._store.write():
            pass

    def _add_pool(self, name: str, size: int, *, on_free: Callable[[], object] = lambda: None) -> CastThreads:
        pool = CastThreads(name, size, on_free=on_free)
        self._pools.append(pool)
        return pool

    def _get_ask_slots(self) -> CastThreads:
        """Slots for what is asked of agents by the way: never those that actions need."""
        if self._ask_slots is None:
            self._ask_slots = self._add_pool("ask", _ASK_THREADS)
        return self._ask_slots

    def _get_caster(self) -> ActionCaster:
        if self._caster is None:
            signer = create_signer(self._conf, self._clock)
            if signer is None:
                LOG.warning("what agents are told is not signed ([signing] private_key is not set)")
            transport = create_rpc_transport(self._conf)
            self._closing.callback(transport.cleanup)
            self._caster = ComputeAgentAPI(transport, self._speech.get_cap, signer)
        return self._caster


def _has_ended_by(give_up_at: float, name: str, work: Callable[[], object]) -> bool:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(max(give_up_at - time.monotonic(), _MOMENT))
    return not thread.is_alive()


def main(argv: Sequence[str] | None = None) -> int:
    """The command: runs until SIGTERM or SIGINT."""
    try:
        conf = load_config(argv, prog="crashcart-engine", cli_opts=COMMAND_LINE_OPTIONS)
        set_up_log(conf)
        store = Store(conf.database.connection, busy_timeout=conf.database.busy_timeout, pool_size=conf.database.pool_size)
        store.check_schema()
        engine = Engine(conf, store, roles=ROLES if conf.only is None else (conf.only,))
    except (cfg.Error, StoreError, OSError, ValueError) as error:
        sys.stderr.write(f"crashcart-engine: {error}\n")
        return 1
    take_short_turns()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    engine.start()
    dead = None
    while dead is None and not stopping.wait(_WATCH_INTERVAL):
        dead = engine.find_dead_loop()
    if dead is not None:
        LOG.critical("%s ended by itself; the engine stops so that it is started anew", dead)
    held = engine.stop()
    if held:
        LOG.warning("stopped without waiting any longer for: %s; it is taken up again at the next start", ", ".join(held))
    LOG.info("crashcart-engine stopped")
    return 0 if dead is None else 1
