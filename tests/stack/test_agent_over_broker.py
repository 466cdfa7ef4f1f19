"""``crashcart-agent`` as a process of its own with the fake driver, cast to and listened to over a real broker."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from oslo_config import cfg

from compute_agent.contract.broker import BROKER_ERRORS
from compute_agent.contract.models import ActionKind, ActionRequest, Heartbeat
from compute_agent.contract.notifications import HEARTBEAT_TYPE
from compute_agent.contract.rpcapi import ComputeAgentAPI, Unroutable
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, wait_until
from tests.stack.ear import Ear

# Counts every injection in a file before it goes on (or hangs), so that a second one shows even after kill -9.
_PROGRAM = textwrap.dedent(
    """
    import os, sys, threading
    import compute_agent.drivers.fake as fake
    from compute_agent.service import main
    inject = fake._FakeNmi.inject_nmi
    def count_and_inject(self, server):
        with open(os.environ["SIGNALS"], "a") as file:
            file.write("N")
        wait = os.environ.get("HANG")
        if wait:
            threading.Event().wait(float(wait))
        inject(self, server)
    fake._FakeNmi.inject_nmi = count_and_inject
    sys.exit(main())
    """
)


class Agent:
    """One agent's state directory, and its process now and after restarts."""

    program = _PROGRAM
    call_bound = 3

    def __init__(self, directory: Path, broker: PrivateRabbitMQ, host: str, more_options: str = "") -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.host = host
        self.signals = directory / "signals"
        self.log = directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "agent.conf").write_text(
            f"[DEFAULT]\nhost = {host}\ntransport_url = {broker.transport_url}\n"
            f"[agent]\ndriver = fake\nstate_path = {directory}\nfirst_look = 0.5\nheartbeat_interval = 2\n"
            f"[fake]\nservers = 2\nsurviving = 1\nseed = {host}\ncall_bound = {self.call_bound}\n{more_options}"
        )

    def start(self, hang: float | None = None) -> None:
        environment = dict(os.environ) | {"SIGNALS": str(self.signals)}
        if hang is not None:
            environment["HANG"] = str(hang)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.program, "--config-file", str(self.directory / "agent.conf")],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def stop(self, timeout: float = 30) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout * PATIENCE)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def wait_taking_in(self, times: int = 1) -> None:
        """Until it has said so often, in all its lives, that it serves casts and calls."""
        wait_until(lambda: self.log.read_text().count("actions are taken in\n") >= times, 20, "the intake")

    def count_signals(self) -> int:
        return len(self.signals.read_text()) if self.signals.exists() else 0

    def count_unsent(self) -> int:
        with sqlite3.connect(f"file:{self.directory / 'journal.sqlite'}?mode=ro", uri=True) as journal:
            (count,) = journal.execute("SELECT count(*) FROM outbox WHERE sent_at IS NULL").fetchone()
        return int(count)


class PatientAgent(Agent):
    """Gives its own end more time than a busy machine takes."""

    program = "from compute_agent import service\nservice._FLUSH_BOUND = service._STEP_BOUND = 60.0\n" + _PROGRAM
    call_bound = 30


class Bench:
    """An agent, an ear, and the gateway's way of casting."""

    def __init__(self, tmp_path: Path, broker: PrivateRabbitMQ) -> None:
        self.broker = broker
        self.tmp_path = tmp_path
        self.host = f"host-{uuid.uuid4().hex[:8]}"
        self.ear = Ear(broker, self.host)
        self.agents: list[Agent] = []
        self.agent = self.make_agent("one")
        conf = cfg.ConfigOpts()
        register_messaging_options(conf)
        conf([], default_config_files=[])
        conf.set_override("transport_url", broker.transport_url)
        self.transport = create_rpc_transport(conf)
        self.api = ComputeAgentAPI(self.transport)

    def make_agent(self, name: str) -> Agent:
        return self.add(Agent(self.tmp_path / name, self.broker, self.host))

    def add(self, agent: Agent) -> Agent:
        self.agents.append(agent)
        return agent

    def wait_for_heartbeat(self) -> Heartbeat:
        self.ear.heard.clear()
        self.ear.wait_for(lambda: any(beat.inventory.full for beat in self.ear.beats()), "a full heartbeat")
        return next(beat for beat in self.ear.beats() if beat.inventory.full)

    def find_servers(self, heartbeat: Heartbeat) -> tuple[str, str]:
        """(one that panics, one that survives)"""
        panicking, surviving = sorted(heartbeat.inventory.servers, key=lambda server: server.instance_name)
        return panicking.id, surviving.id

    def build(self, heartbeat: Heartbeat, server: str) -> ActionRequest:
        now = datetime.now(UTC)
        return ActionRequest(
            id=f"req-{uuid.uuid4()}",
            kind=ActionKind.TRIGGER_CRASH_DUMP,
            server=server,
            server_generation=1,
            host=self.host,
            sent_at=now,
            deadline=now + timedelta(seconds=600),
            journal_id=heartbeat.journal_id,
        )

    def cast(self, request: ActionRequest) -> None:
        """As the gateway does it: again until it is routed."""

        def try_once() -> bool:
            try:
                self.api.cast_action(request)
            except Unroutable:
                return False
            return True

        wait_until(try_once, 20, "the agent's queue")

    def wait_observed(self, request: ActionRequest, observation: str) -> None:
        """An earlier one may be that nothing was seen yet: the agent looks half a second after the signal."""

        def is_observed() -> bool:
            return observation in {each["observation"] for each in self.ear.events("action.observed", request.id)}

        self.ear.wait_for(is_observed, f"{observation} of {request.id}")

    def close(self) -> None:
        for agent in self.agents:
            if agent.process is not None and agent.process.poll() is None:
                agent.kill()
        self.transport.cleanup()
        self.ear.close()


@pytest.fixture
def bench(tmp_path: Path, broker: PrivateRabbitMQ) -> Iterator[Bench]:
    bench = Bench(tmp_path, broker)
    yield bench
    bench.close()


def test_a_cast_becomes_a_signal_an_ending_and_an_observation(bench: Bench) -> None:
    bench.agent.start()
    heartbeat = bench.wait_for_heartbeat()
    panicking, surviving = bench.find_servers(heartbeat)
    first, second = bench.build(heartbeat, panicking), bench.build(heartbeat, surviving)
    bench.cast(first)
    bench.cast(second)
    assert bench.ear.wait_for_event("action.ended", first.id)["code"] == "signal_delivered"
    bench.wait_observed(first, "guest_panicked")
    assert bench.ear.wait_for_event("action.observed", second.id)["observation"] == "nothing_seen_yet"
    sequences = [event.payload["sequence"] for event in bench.ear.heard if event.event_type != HEARTBEAT_TYPE]
    assert sequences == sorted(set(sequences))
    assert bench.agent.count_signals() == 2
    bench.agent.wait_taking_in()  # calls come after casts
    assert bench.api.ping(bench.host, timeout=10 * PATIENCE).journal_id == heartbeat.journal_id


def test_a_second_agent_of_one_name_refuses_and_says_nothing(bench: Bench) -> None:
    bench.agent.start()
    first = bench.wait_for_heartbeat()
    second = bench.make_agent("two")
    second.start()
    assert second.process is not None
    assert second.process.wait(30 * PATIENCE) == 1
    assert "another agent serves host" in second.log.read_text()
    bench.ear.heard.clear()
    bench.ear.wait_for(lambda: len(bench.ear.beats()) >= 2, "two more heartbeats")
    assert {beat.journal_id for beat in bench.ear.beats()} == {first.journal_id}


def test_an_agent_that_lost_its_lock_serves_again_once_it_holds_it(bench: Bench) -> None:
    bench.agent.start()
    heartbeat = bench.wait_for_heartbeat()
    links = [line.split("\t") for line in bench.broker.ctl("list_connections", "pid", "client_properties").splitlines()]
    (lock,) = [pid for pid, properties in links if f"{bench.host} lock" in properties]
    bench.broker.ctl("close_connection", lock, "as a partition would")
    bench.agent.wait_taking_in(times=2)
    assert "nothing is taken in until it is held again" in bench.agent.log.read_text()
    request = bench.build(heartbeat, bench.find_servers(heartbeat)[1])
    bench.cast(request)
    assert bench.ear.wait_for_event("action.ended", request.id)["code"] == "signal_delivered"
    assert bench.agent.count_signals() == 1
    assert bench.agent.stop() == 0


def test_kill_9_between_started_and_the_ending_is_unknown_and_never_a_second_nmi(bench: Bench) -> None:
    bench.agent.start(hang=600)
    heartbeat = bench.wait_for_heartbeat()
    request = bench.build(heartbeat, bench.find_servers(heartbeat)[1])
    bench.cast(request)
    wait_until(lambda: bench.agent.count_signals() == 1, 10, "the injection")
    bench.agent.kill()
    bench.agent.start()
    ended = bench.ear.wait_for_event("action.ended", request.id)
    assert (ended["ending"], ended["code"]) == ("unknown", "agent_restarted")
    wait_until(lambda: bench.agent.count_unsent() == 0, 20, "the agent to know that it was sent")
    message_ids = {event.message_id for event in bench.ear.heard if event.event_type == "action.ended"}
    bench.cast(request)
    bench.ear.wait_for_event("action.ended", request.id, count=2)
    assert {event.message_id for event in bench.ear.heard if event.event_type == "action.ended"} == message_ids
    assert bench.agent.count_signals() == 1


def test_a_journal_that_was_deleted_ends_the_agent_and_means_no_second_nmi(bench: Bench) -> None:
    bench.agent.start()
    heartbeat = bench.wait_for_heartbeat()
    request = bench.build(heartbeat, bench.find_servers(heartbeat)[1])
    bench.cast(request)
    bench.ear.wait_for_event("action.ended", request.id)
    for path in bench.agent.directory.glob("journal.sqlite*"):
        path.unlink()
    assert bench.agent.process is not None
    assert bench.agent.process.wait(20 * PATIENCE) == 1
    bench.agent.start()
    bench.cast(request)
    bench.ear.wait_for_event("action.ended", request.id, count=2)
    assert bench.ear.events("action.ended", request.id)[-1]["code"] == "journal_lost"
    assert bench.agent.count_signals() == 1


def test_sigterm_lets_a_begun_call_end_and_sends_everything(bench: Bench) -> None:
    bench.agent = bench.add(PatientAgent(bench.tmp_path / "patient", bench.broker, bench.host))
    bench.agent.start(hang=1.0)
    heartbeat = bench.wait_for_heartbeat()
    request = bench.build(heartbeat, bench.find_servers(heartbeat)[0])
    bench.cast(request)
    wait_until(lambda: bench.agent.count_signals() == 1, 10, "the injection")
    assert bench.agent.stop() == 0
    assert bench.ear.wait_for_event("action.ended", request.id)["code"] == "signal_delivered"
    bench.wait_observed(request, "guest_panicked")
    bench.ear.wait_for(lambda: bench.ear.beats()[-1].stopping, "the last heartbeat")
    assert bench.agent.count_unsent() == 0


def test_a_broker_that_is_away_delays_neither_start_nor_stop_and_is_served_when_it_is_back(bench: Bench) -> None:
    bench.broker.ctl("stop_app")
    try:
        bench.agent.start()
        wait_until(lambda: "the broker is away" in bench.agent.log.read_text(), 15, "the agent's word on the broker")
        assert bench.agent.stop(10) == 0
        bench.agent.start()
        wait_until(lambda: bench.agent.log.read_text().count("the broker is away") >= 2, 15, "the agent's word on the broker")
    finally:
        bench.broker.ctl("start_app")
    wait_until(lambda: _reconnect(bench.ear), 20, "the broker")
    heartbeat = bench.wait_for_heartbeat()
    request = bench.build(heartbeat, bench.find_servers(heartbeat)[0])
    bench.cast(request)
    bench.wait_observed(request, "guest_panicked")


def test_an_alarm_holds_events_back_and_neither_the_stop_nor_the_journal(bench: Bench) -> None:
    bench.agent.start()
    heartbeat = bench.wait_for_heartbeat()
    request = bench.build(heartbeat, bench.find_servers(heartbeat)[0])
    bench.cast(request)
    bench.ear.wait_for_event("action.observed", request.id)
    bench.agent.wait_taking_in()
    bench.broker.set_memory_alarm(True)
    try:
        bench.agent.kill()
        bench.agent.start()  # its agent.up cannot be sent
        bench.agent.wait_taking_in(times=2)
        assert bench.agent.stop(20) == 0
        assert bench.agent.count_unsent() >= 1
    finally:
        bench.broker.set_memory_alarm(False)
    bench.agent.start()
    bench.ear.wait_for_event("agent.up", count=2)
    wait_until(lambda: bench.agent.count_unsent() == 0, 10, "an empty outbox")


def _reconnect(ear: Ear) -> bool:
    try:
        ear.connect()
    except BROKER_ERRORS:
        return False
    return True
