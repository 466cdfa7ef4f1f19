"""``crashcart-agent``: puts the agent's parts together, starts them and stops them in order; the only place with signals.

Start: journal, then what a dead predecessor left is ended, driver, observer, sweep. All of that needs no broker. When the broker is
there and the host's lock is held: reports, heartbeats, workers, and last of all the intake of actions.

Stop (SIGTERM), each step bounded: no more intake, begun driver calls drain, what the driver saw is journalled, the outbox is sent, a
last heartbeat says ``stopping``, the lock is let go. What could not be sent stays in the journal for the next start.

Reload (SIGHUP): the trusted keys, and the driver's own files where it has some; the configuration file is read at the start only.
"""

import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from oslo_config import cfg

from compute_agent.action_queue import ActionQueue
from compute_agent.actions import Actions
from compute_agent.aftermath import Aftermath
from compute_agent.agent_kinds import create_kinds
from compute_agent.cast_gate import CastGate, find_trusted_keys
from compute_agent.collector import Collector
from compute_agent.config import load_config
from compute_agent.contract.broker import BrokerAddress, find_tls
from compute_agent.contract.clock import Clock, SystemClock
from compute_agent.contract.logs import set_up_log
from compute_agent.contract.models import ActionRequest
from compute_agent.contract.publisher import Publisher, PublishFailed
from compute_agent.contract.threads import take_short_turns
from compute_agent.contract.transport import create_rpc_transport, oslo_messaging
from compute_agent.contract.versions import RELEASE
from compute_agent.drivers.loader import DriverNotLoaded, load_driver
from compute_agent.endpoint import Endpoint
from compute_agent.host_lock import HostLock
from compute_agent.intake import Intake
from compute_agent.inventory import Inventory
from compute_agent.journal import Journal, JournalFull, JournalInUse, JournalledAction, JournalUnusable
from compute_agent.kinds import TURN_OF_KIND
from compute_agent.loops import Loop, run_bounded
from compute_agent.observer import Observer
from compute_agent.publishing import Publishing
from compute_agent.reloads import Reloads
from compute_agent.reporter import Heartbeats, Reporter, make_publisher_id
from compute_agent.rpc_servers import RpcServers
from compute_agent.sampler import Sampler
from compute_agent.watchdog_drift import WatchdogDrift
from compute_agent.workers import Workers

LOG = logging.getLogger(__name__)

_SWEEP_INTERVAL = 1.0
_IDLE_WAIT = 60.0
"""Seconds that a thread waits for something to do which wakes it."""
_PRUNE_INTERVAL = 600.0
_FLUSH_BOUND = 5.0
_STEP_BOUND = 5.0


@dataclass(frozen=True)
class _End:
    """Why the process ends."""

    code: int
    reason: str


class AgentService:
    """The whole agent in one object; :meth:`run` returns the exit code.

    :raises JournalInUse, JournalUnusable, DriverNotLoaded, ValueError: it cannot start as configured; the text says why.
    """

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock) -> None:
        self._conf = conf
        self._clock = clock
        agent = conf.agent
        self._publisher_id = make_publisher_id(conf.host)
        self._ends: queue.SimpleQueue[_End] = queue.SimpleQueue()
        self._next_sweep = self._next_prune = self._next_timers = 0.0

        # Both fail on a wrong URL before anything is begun; neither connects yet.
        self._transport = create_rpc_transport(conf)
        trusted_keys = find_trusted_keys(conf, clock)
        publisher, heartbeat_publisher = self._make_publisher("events"), self._make_publisher("heartbeats")
        self._driver = load_driver(agent.driver, conf, clock)
        self._journal = self._open_journal()
        self._gate = CastGate(trusted_keys.verifier if trusted_keys else None, self._journal, clock, conf.host)

        self._sampler = Sampler(self._driver.diagnostics, clock, list_servers=self._list_servers)
        self._collector = Collector(self._driver, self._sampler, clock, limit=agent.diagnostics_limit, threads=agent.diagnostics_threads)
        self._aftermath = Aftermath(conf, self._journal, self._driver, clock, self._sampler, self._collector)
        self._queue = ActionQueue(changes_at_once=max(1, agent.workers // 2))
        self._observer = Observer(
            self._journal,
            self._driver,
            clock,
            default_project=agent.default_project,
            first_look=agent.first_look,
            limit=agent.observation_limit,
            on_crash=self._aftermath.crashed,
            on_state_change=lambda: self._publishing.want_heartbeat(),
        )
        self._actions = Actions(
            self._journal,
            create_kinds(
                conf, self._journal, self._driver, clock, self._collector, self._aftermath.host_dumps, self._observer.has_untold_nmi
            ),
            clock,
            max_clock_skew=agent.max_clock_skew,
            on_ended=self._note_ending,
            on_given_up=self._queue.give_up,
        )
        self._inventory = Inventory(
            self._journal,
            self._driver,
            clock,
            default_project=agent.default_project,
            interval=agent.heartbeat_interval,
            inventory_interval=agent.inventory_interval,
            drift=WatchdogDrift(self._journal, clock, reapply=conf.watchdog.reapply, queue_action=self._queue_action),
        )
        self._reporter = Reporter(self._journal, publisher, clock)
        self._publishing = Publishing(
            conf.host,
            self._reporter,
            publisher,
            Heartbeats(
                self._inventory,
                heartbeat_publisher,
                on_missed=self._observer.enqueue_comparison,
                on_all_told=self._reporter.repeat_last,
            ),
            heartbeat_publisher,
            heartbeat_interval=agent.heartbeat_interval,
            may_beat=lambda: self._intake.is_held,
            on_fatal=self._fail,
        )
        self._journal.on_new_events(self._publishing.want_report)
        self._intake = Intake(
            HostLock(self._make_address("lock"), conf.host),
            self._create_rpc_server,
            on_held=self._open_for_business,
            on_fatal=self._fail,
        )
        self._observer_loop = self._make_loop("observer", self._observe, self._observer.wake)
        self._sweep_loop = self._make_loop("sweep", self._sweep)
        self._sampler_loop = self._make_loop("sampler", self._sample)
        self._box_loop = self._make_loop("black-boxes", self._fill_box, self._aftermath.wake)
        self._dump_loop = self._make_loop("dumps-after-panic", self._take_dump, self._aftermath.wake)
        self._search_loop = self._make_loop("dump-search", self._search_dump, self._observer.dump_search.wake)
        self._reloads = Reloads(self._driver, self._send_inventory, trusted_keys.reload if trusted_keys else lambda: None)
        self._reload_loop = Loop("reload", self._reloads.step, on_fatal=self._fail, wake=self._reloads.wake)
        # One more than was asked for: a slow action, of which there is one at a time, takes no other's worker.
        self._workers = Workers(self._queue, self._actions.run, count=agent.workers + 1, on_fatal=self._fail)

    def request_stop(self, reason: str) -> None:
        """Let :meth:`run` stop in order and return 0; from any thread and from a signal handler."""
        self._ends.put(_End(0, reason))

    def request_reload(self) -> None:
        """Let the driver read its own files anew, soon; from any thread and from a signal handler."""
        self._reloads.request()

    def run(self) -> int:
        """Serve until asked to stop or until nothing can be promised any more; returns the exit code."""
        LOG.info(
            "agent of host %s starts: release %s, driver %s, journal %s, incarnation %d",
            *(self._conf.host, RELEASE, self._driver.name, self._journal.journal_id, self._journal.incarnation),
        )
        self._start()
        end = self._ends.get()
        LOG.log(logging.ERROR if end.code else logging.INFO, "agent of host %s stops: %s", self._conf.host, end.reason)
        self._stop()
        return end.code

    # Making the parts

    def _make_address(self, role: str) -> BrokerAddress:
        name = f"{self._publisher_id} {role}"
        return BrokerAddress(self._conf.transport_url, name=name, tls=find_tls(self._conf))

    def _make_publisher(self, role: str) -> Publisher:
        return Publisher(self._make_address(role))

    def _note_ending(self, action: JournalledAction) -> None:
        self._observer.action_ended(action)
        self._aftermath.action_ended(action)

    def _list_servers(self) -> set[str]:
        with self._journal.transaction("read") as transaction:
            return transaction.list_known_ids()

    def _give_out(self, action_ids: Sequence[str]) -> None:
        if not action_ids:
            return
        with self._journal.transaction("read") as transaction:
            requests = [transaction.get_action(action_id).request for action_id in action_ids]
        for request in requests:
            self._queue_action(request)

    def _queue_action(self, request: ActionRequest) -> None:
        self._queue.add(request.server, request.id, TURN_OF_KIND[request.kind])

    def _make_loop(self, name: str, body: Callable[[], None], wake: Callable[[], None] = lambda: None) -> Loop:
        return Loop(name, body, on_fatal=self._fail, wake=wake)

    def _open_journal(self) -> Journal:
        directory = Path(self._conf.agent.state_path)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise JournalUnusable(f"[agent] state_path {directory} cannot be made: {error}") from error
        return Journal.open(directory / "journal.sqlite", host=self._conf.host, clock=self._clock)

    def _create_rpc_server(self) -> RpcServers:
        endpoint = Endpoint(
            self._journal,
            self._queue,
            self._clock,
            self._conf.host,
            get_diagnostics=lambda server, history: self._collector.get_reply(server, history=history),
            get_black_box=self._aftermath.read_box,
            on_resend=self._reporter.resend,
            on_report_inventory=self._send_inventory,
            on_ended=self._note_ending,
            is_host_ours=lambda: self._intake.is_held,
            gate=self._gate,
        )
        return RpcServers(self._transport, self._conf.host, endpoint)

    # Start and stop

    def _start(self) -> None:
        self._aftermath.clear_up()
        self._give_out(self._actions.recover())
        if self._driver.events is not None:
            with self._journal.transaction("read") as transaction:
                cursors = transaction.list_cursors()
            self._driver.events.subscribe(self._observer.enqueue, cursors)
        if self._driver.lifecycle is not None:
            self._driver.lifecycle.open()
        self._reload_loop.start()
        self._observer_loop.start()
        self._sweep_loop.start()
        self._dump_loop.start()
        self._search_loop.start()
        if self._conf.black_box.quota_mib:
            self._box_loop.start()
        if self._driver.diagnostics is not None and self._conf.agent.sample_interval > 0:
            self._sampler_loop.start()
        self._intake.start()

    def _open_for_business(self) -> None:
        """The lock is held: from here on this agent speaks for its host."""
        body = {
            "release": RELEASE,
            "journal_id": self._journal.journal_id,
            "incarnation": self._journal.incarnation,
            "reason": "the agent was started",
        }
        with self._journal.transaction("agent.up") as transaction:
            transaction.append_event("agent.up", server=None, occurred_at=self._clock.now(), body=body)
        self._publishing.start()
        self._workers.start()

    def _stop(self) -> None:
        self._intake.stop()
        self._reload_loop.stop(_STEP_BOUND)
        self._workers.stop()
        self._queue.close()
        if not self._queue.wait_idle(self._driver.call_bound):
            LOG.warning("driver calls are still running after %.0f s; the next start ends them as unknown", self._driver.call_bound)
        readers = (self._sampler_loop, self._box_loop, self._dump_loop, self._search_loop)
        for loop in readers:
            loop.stopping.set()
        for loop in readers:
            loop.stop(_STEP_BOUND)
        self._sweep_loop.stop(_STEP_BOUND)
        if self._driver.lifecycle is not None:
            run_bounded("driver's close", self._driver.lifecycle.close, self._driver.call_bound + _STEP_BOUND)
        self._observer_loop.stop(_STEP_BOUND)
        quiet = self._publishing.stop(_STEP_BOUND)
        if quiet and self._intake.is_held:
            run_bounded("the last reports", self._say_goodbye, _FLUSH_BOUND + 1)
        elif not quiet:
            self._publishing.abort()
        self._intake.release()
        with suppress(JournalFull, JournalUnusable):  # it is sent again then
            self._journal.keep_sent()
        self._journal.close()
        LOG.info("agent of host %s has stopped", self._conf.host)

    def _say_goodbye(self) -> None:
        """What the driver saw last is journalled, the outbox sent if the broker takes it in time, and a last heartbeat."""
        limit = threading.Timer(_FLUSH_BOUND, self._publishing.abort)
        limit.start()
        try:
            while self._observer.step(0):
                pass
            self._publishing.send_last()
        except (PublishFailed, JournalUnusable) as error:
            LOG.warning("not everything was sent, the rest waits in the journal: %s", error)
        finally:
            limit.cancel()
            self._publishing.close()

    def _fail(self, reason: str) -> None:
        self._ends.put(_End(1, reason))

    # One step of each thread

    def _observe(self) -> None:
        self._observer.step(max(0.0, self._next_timers - time.monotonic()))
        if time.monotonic() >= self._next_timers:
            self._next_timers = time.monotonic() + _SWEEP_INTERVAL
            self._observer.check_timers()

    def _sweep(self) -> None:
        self._actions.end_overdue()
        if self._queue.count_given_up():
            self._workers.make_up()
        self._give_out(self._actions.list_due())
        self._gate.tell()
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + _PRUNE_INTERVAL
            self._prune()
        self._sweep_loop.stopping.wait(_SWEEP_INTERVAL)

    def _sample(self) -> None:
        began_at = time.monotonic()
        self._sampler.step()
        self._sampler_loop.stopping.wait(max(0.0, began_at + self._conf.agent.sample_interval - time.monotonic()))

    def _fill_box(self) -> None:
        self._aftermath.fill_box(_IDLE_WAIT)

    def _take_dump(self) -> None:
        self._aftermath.take_dump(_IDLE_WAIT)

    def _search_dump(self) -> None:
        self._observer.dump_search.step(_IDLE_WAIT)

    def _prune(self) -> None:
        agent = self._conf.agent
        with self._journal.transaction("prune") as transaction:
            count = transaction.prune(
                self._clock.now(),
                outbox_keep=timedelta(seconds=agent.outbox_keep),
                outbox_max_rows=agent.outbox_max_rows,
                action_keep=timedelta(seconds=agent.action_keep + agent.max_clock_skew),
                except_for=self._actions.list_at_work(),
            )
        if count:
            LOG.info("journal: %d rows were forgotten, nobody can ask for them any more", count)

    def _send_inventory(self) -> None:
        self._inventory.request_full()
        self._publishing.want_heartbeat()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 stopped as asked, 1 cannot serve (any more), 2 wrong usage."""
    try:
        conf = load_config(argv)
    except cfg.Error as error:
        print(f"crashcart-agent: {error}", file=sys.stderr)  # noqa: T201 — there is no log yet
        return 2
    set_up_log(conf)
    service, complaint = None, ""
    try:
        service = AgentService(conf, SystemClock())
    except (
        JournalInUse,
        JournalUnusable,
        DriverNotLoaded,
        ValueError,
        cfg.Error,
        oslo_messaging.InvalidTransportURL,
        oslo_messaging.DriverLoadFailure,
    ) as error:
        complaint = str(error)
    if service is None:  # told out here, as oslo.log adds the exception that is being caught to each line
        LOG.error("crashcart-agent cannot start: %s", complaint)
        return 1
    take_short_turns()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: service.request_stop(signal.Signals(received).name))
    signal.signal(signal.SIGHUP, lambda _received, _frame: service.request_reload())
    return service.run()


if __name__ == "__main__":
    sys.exit(main())
