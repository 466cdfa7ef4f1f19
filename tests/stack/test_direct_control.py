"""Agents told directly, without the gateway: by the example of the documentation as it stands, and by what it must not get through.

Each host has its own account at the broker, one trusts a key, the other none. The gateway hears of it as everybody does, and shows it.
"""

import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from falcon import testing

from api_gateway.config import load_config
from api_gateway.store import Store
from api_gateway.wsgi import create_app
from compute_agent.contract.accounts import build_agent_account, build_controller_account
from compute_agent.contract.broker_definitions import build_definitions
from compute_agent.contract.models import Heartbeat
from compute_agent.contract.notifications import EVENTS_EXCHANGE, RECORDER_QUEUES
from compute_agent.contract.signing_keys import create_key_files
from compute_agent.contract.topics import RPC_EXCHANGE, RPC_TOPIC
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import Service, wait_until
from tests.databases import PATIENT
from tests.stack.broker_events import PatientAddress, open_quiet_link
from tests.stack.consumer_programs import Program
from tests.stack.ear import Ear
from tests.stack.test_agent_over_broker import Agent
from tests.stack.test_signed_casts import HastyAgent

EXAMPLE = Path(__file__).parents[2] / "doc" / "examples" / "direct_control.py"
ISSUER = "soc"
_ENGINE = "import sys; from api_gateway.engine import main; sys.exit(main())"
Action = dict[str, Any]


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("direct_control", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


direct_control: Any = load_example()


class Lab:
    """Two hosts, a controller's account with its key, and a gateway that hears of them; everything as an operator sets it up."""

    def __init__(self, directory: Path, broker: PrivateRabbitMQ) -> None:
        self._port = broker.ports.amqp
        self.signed, self.unsigned = (f"host-{uuid.uuid4().hex[:8]}" for _ in range(2))
        self.name = f"tests-{uuid.uuid4().hex[:8]}"
        self._passwords = {name: uuid.uuid4().hex for name in (self.signed, self.unsigned, self.name)}
        self.url = self._build_url(build_controller_account(self.name), self.name)
        self._prepare_broker(directory, broker)
        self.key_file, public = create_key_files(directory, ISSUER)
        (directory / "trusted").mkdir()
        public.rename(directory / "trusted" / public.name)
        signing = f"[signing]\ntrusted_keys = {directory / 'trusted'}\n"
        self.agents = {
            self.signed: HastyAgent(directory / "signed", self._reach(self.signed), self.signed, signing),
            self.unsigned: Agent(directory / "unsigned", self._reach(self.unsigned), self.unsigned),
        }
        self._store = Store(f"sqlite:///{directory / 'gateway.sqlite'}")
        self._store.upgrade_schema()
        self.engine = self._make_engine(directory, broker)

    def start(self, broker: PrivateRabbitMQ) -> None:
        """All processes, and wait for the first words of both hosts."""
        ears = {host: Ear(broker, host) for host in self.agents}
        for agent in self.agents.values():
            agent.start()
        self.engine.start()
        self.beats = {host: self._wait_for_heartbeat(ear) for host, ear in ears.items()}
        conf = load_config([], config_files=[str(self._config)])
        self.api = testing.TestClient(create_app(conf, store=self._store), headers={"Host": "localhost"})
        self.servers = {host: self._find_servers(host) for host in self.agents}

    def _prepare_broker(self, directory: Path, broker: PrivateRabbitMQ) -> None:
        path = directory / "definitions.json"
        agents = {host: self._passwords[host] for host in (self.signed, self.unsigned)}
        path.write_text(json.dumps(build_definitions({}, agents, controllers={self.name: self._passwords[self.name]})))
        broker.ctl("import_definitions", str(path))
        link = open_quiet_link(broker)
        link.channel().queue_purge(RECORDER_QUEUES[0].name)  # of other tests' hosts
        link.close()

    def _make_engine(self, directory: Path, broker: PrivateRabbitMQ) -> Service:
        self._config = directory / "gateway.conf"
        self._config.write_text(
            f"[DEFAULT]\ntransport_url = {broker.transport_url}\n"
            f"[database]\nconnection = sqlite:///{directory / 'gateway.sqlite'}\nbusy_timeout = {PATIENT}\n"
            f"[dispatcher]\nwake_socket = {directory / 'wake.sock'}\n[recorder]\nverify_senders = true\n[stream]\nlisten_port = 0\n"
        )
        argv = [sys.executable, "-c", _ENGINE, "--config-file", str(self._config)]
        return Service("crashcart-engine", argv, dict(os.environ) | {"PYTHONWARNINGS": "ignore"}, directory / "engine.log")

    def _build_url(self, account: str, name: str) -> str:
        return f"rabbit://{account}:{self._passwords[name]}@127.0.0.1:{self._port}/"

    def _reach(self, host: str) -> Any:
        """What an agent's configuration takes of a broker."""
        return SimpleNamespace(transport_url=self._build_url(build_agent_account(host), host))

    def _wait_for_heartbeat(self, ear: Ear) -> Heartbeat:
        ear.wait_for(lambda: any(beat.inventory.full for beat in ear.beats()), "a full heartbeat")
        ear.close()
        return next(beat for beat in ear.beats() if beat.inventory.full)

    def _find_servers(self, host: str) -> tuple[str, str]:
        """(one that panics, one that survives)"""
        panicking, surviving = sorted(self.beats[host].inventory.servers, key=lambda server: server.instance_name)
        return panicking.id, surviving.id

    def run(self, host: str, server: str, *arguments: str) -> Program:
        signing = ["--key", str(self.key_file)] if host == self.signed else []
        command = [str(EXAMPLE), *signing, "--host", host, "--server", server, *arguments]
        return Program(command, {"CONTROL_URL": self.url, "PYTHONWARNINGS": "ignore"})

    def build(self, at: str, **changes: object) -> Action:
        """The example's own action, about the server that survives."""
        arguments = direct_control.parse(["--host", at, "--server", self.servers[at][1], "trigger_crash_dump", "--force"])
        server = {"generation": 1, "project": "demo"}
        return {
            **direct_control.build_action(arguments, self.beats[at].to_wire(), server),
            "sent_at": datetime.now(UTC).isoformat(),
            **changes,
        }

    def find_action(self, action_id: str) -> Action | None:
        answer = self.api.simulate_get(f"/v1/actions/{action_id}")
        return dict(answer.json) if answer.status_code == 200 else None

    def wait_for_record(self, action_id: str, ending: str) -> Action:
        """As the API shows it."""
        wait_until(lambda: (self.find_action(action_id) or {}).get("ending") == ending, 20, f"the record of {action_id}")
        found = self.find_action(action_id)
        assert found is not None
        return found

    def close(self) -> None:
        for agent in self.agents.values():
            if agent.process is not None:
                agent.kill()
        if self.engine.is_running:
            self.engine.kill()
        self._store.dispose()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, broker: PrivateRabbitMQ) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("direct"), broker)
    try:
        lab.start(broker)
        yield lab
    finally:
        lab.close()


@pytest.fixture
def ear(lab: Lab, broker: PrivateRabbitMQ) -> Iterator[Ear]:
    """Hears the host that trusts keys."""
    ear = Ear(broker, lab.signed)
    yield ear
    ear.close()


@pytest.fixture(scope="module")
def caster(lab: Lab) -> Iterator[Any]:
    caster = direct_control.Caster(lab.url, key_file=lab.key_file)
    yield caster
    caster.close()


def test_the_example_carries_out_both_verbs_and_the_gateway_shows_them(lab: Lab) -> None:
    panicking, _ = lab.servers[lab.signed]
    crash = lab.run(lab.signed, panicking, "--user", "alice", "trigger_crash_dump", "--follow")
    watchdog = lab.run(lab.unsigned, lab.servers[lab.unsigned][1], "set_watchdog", "--model", "i6300esb", "--expiry-action", "reset")
    assert (crash.join(60), watchdog.join(60)) == (0, 0), crash.errors + watchdog.errors
    crash_id, watchdog_id = (program.lines[0].split()[0] for program in (crash, watchdog))
    assert f"{crash_id} succeeded signal_delivered: The driver said that the NMI was delivered." in crash.lines
    assert crash.lines[-1].startswith(f"{crash_id} observed guest_panicked")
    assert watchdog.lines[-1].startswith(f"{watchdog_id} succeeded watchdog_set")
    assert lab.agents[lab.signed].count_signals() == 1
    shown = lab.wait_for_record(crash_id, "succeeded")
    expected = {"kind": "trigger_crash_dump", "server": panicking, "host": lab.signed, "user": "alice", "decided_by": "agent"}
    assert shown.items() >= expected.items()
    assert shown["timeline"][0]["text"] == "The gateway did not take it on itself; the agent told of it."
    assert lab.wait_for_record(watchdog_id, "succeeded")["code"] == "watchdog_set"


REFUSED: dict[str, tuple[Callable[[Lab], Action], str, str]] = {
    "past its deadline": (
        lambda lab: lab.build(lab.signed, deadline=(datetime.now(UTC) - timedelta(seconds=1)).isoformat()),
        *("expired", "deadline_passed"),
    ),
    "of the future": (
        lambda lab: lab.build(lab.signed, sent_at=(datetime.now(UTC) + timedelta(seconds=30)).isoformat()),
        *("failed", "clock_skew"),
    ),
    "for another journal": (lambda lab: lab.build(lab.signed, journal_id="0" * 32), "unknown", "journal_lost"),
    "for another host": (lambda lab: lab.build(lab.signed, host=lab.unsigned), "failed", "invalid_request"),
    "for another life of the server": (lambda lab: lab.build(lab.signed, server_generation=7), "failed", "server_moved"),
    "for no server": (lambda lab: lab.build(lab.signed, server=str(uuid.UUID(int=1))), "failed", "server_not_found"),
    "unreadable": (lambda lab: lab.build(lab.signed, deadline="soon"), "failed", "invalid_request"),
}


@pytest.mark.parametrize(("build", "ending", "code"), REFUSED.values(), ids=REFUSED)
def test_what_must_not_be_done_ends_so_and_nothing_is_sent(
    lab: Lab, ear: Ear, caster: Any, build: Callable[[Lab], Action], ending: str, code: str
) -> None:
    signals = lab.agents[lab.signed].count_signals()
    action = build(lab)
    assert caster.cast(lab.signed, "trigger_crash_dump", {"action": action})
    ended = ear.wait_for_event("action.ended", action["id"])
    assert (ended["ending"], ended["code"]) == (ending, code)
    assert lab.agents[lab.signed].count_signals() == signals


def test_what_is_cast_twice_is_done_once_and_other_content_under_its_id_is_refused(lab: Lab, ear: Ear, caster: Any) -> None:
    agent = lab.agents[lab.signed]
    signals = agent.count_signals()
    action = lab.build(lab.signed)
    assert caster.cast(lab.signed, "trigger_crash_dump", {"action": action})
    ended = ear.wait_for_event("action.ended", action["id"])
    wait_until(lambda: agent.count_unsent() == 0, 20, "the broker to confirm it: until then it is being told as it is")
    assert caster.cast(lab.signed, "trigger_crash_dump", {"action": {**action, "sent_at": datetime.now(UTC).isoformat()}})
    assert ear.wait_for_event("action.ended", action["id"], count=2) == ended
    assert ended["code"] == "signal_delivered"
    assert agent.count_signals() == signals + 1
    caster.cast(lab.signed, "trigger_crash_dump", {"action": {**action, "user": "mallory"}})
    assert ear.wait_for_event("action.id_conflict", action["id"])["kind"] == "trigger_crash_dump"
    assert agent.count_signals() == signals + 1
    assert lab.wait_for_record(action["id"], "succeeded")["user"] is None


def test_a_cast_that_is_not_signed_for_the_host_by_a_key_that_it_trusts_does_nothing(
    lab: Lab, ear: Ear, caster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = lab.agents[lab.signed]
    signals = agent.count_signals()
    action = lab.build(lab.signed)
    for key, signed_for, reason in (
        (None, lab.signed, "unsigned"),
        (Ed25519PrivateKey.generate(), lab.signed, "unknown_issuer"),
        (caster._key, lab.unsigned, "another_host"),
    ):
        told = len(ear.events("agent.cast_refused"))
        with monkeypatch.context() as patched:
            patched.setattr(caster, "_key", key)
            caster.cast(lab.signed, "trigger_crash_dump", {"action": action}, signed_for=signed_for)
        assert ear.wait_for_event("agent.cast_refused", count=told + 1)["reasons"] == {reason: 1}
    assert (agent.count_signals(), lab.find_action(action["id"])) == (signals, None)


def test_a_cast_needs_no_library_of_openstacks(lab: Lab, ear: Ear, caster: Any) -> None:
    """The message as doc/direct-control.rst has it, published with nothing but AMQP."""
    action = lab.build(lab.signed)
    arguments = {"action": action}
    signed = direct_control.sign(caster._key, ISSUER, lab.signed, "trigger_crash_dump", arguments)["crashcart_signature"]
    message = {"method": "trigger_crash_dump", "version": direct_control.NEEDS["trigger_crash_dump"], "args": arguments}
    message |= {"_context_crashcart_signature": signed, "_unique_id": uuid.uuid4().hex}
    body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})
    link = PatientAddress(lab.url, name="controller").open_link(heartbeat=0)
    channel = link.channel()
    channel.confirm_select()
    prepared = channel.prepare_message(body, content_type="application/json", content_encoding="utf-8", properties={"delivery_mode": 2})
    channel.basic_publish_confirm(prepared, exchange=RPC_EXCHANGE, routing_key=f"{RPC_TOPIC}.{lab.signed}", mandatory=True)
    assert ear.wait_for_event("action.ended", action["id"])["code"] == "signal_delivered"
    link.close()


@pytest.mark.parametrize(
    ("url", "arguments", "sentence"),
    [
        (None, [], "CONTROL_URL is not set"),
        ("rabbit://controller.soc:x@127.0.0.1:1/", ["--key", "/nowhere.key"], "the key /nowhere.key cannot be read"),
        ("wrong password", [], "the broker refuses the account of CONTROL_URL: ACCESS_REFUSED"),
    ],
)
def test_the_example_says_in_a_sentence_why_it_cannot_begin(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str | None, arguments: list[str], sentence: str
) -> None:
    monkeypatch.delenv("CONTROL_URL", raising=False)
    if url is not None:
        broker = lab.url.rpartition("@")[2]
        monkeypatch.setenv("CONTROL_URL", f"rabbit://controller.soc:x@{broker}" if url == "wrong password" else url)
    assert direct_control.main([*arguments, "--host", lab.signed, "--server", lab.servers[lab.signed][0], "trigger_crash_dump"]) == 4
    assert capsys.readouterr().err.startswith(sentence)


def test_an_id_that_no_agent_could_read_is_none_for_the_example() -> None:
    with pytest.raises(SystemExit) as ended:
        direct_control.parse(["--host", "h", "--server", "s", "--id", "ticket-4711", "trigger_crash_dump"])
    assert ended.value.code == 2


def test_a_host_without_an_agent_has_no_queue(caster: Any) -> None:
    assert not caster.cast(f"host-{uuid.uuid4().hex[:8]}", "report_inventory", {})


def test_an_agent_of_an_older_release_is_not_sent_what_it_would_drop_unsaid() -> None:
    beat = {"host": "compute-1", "release": "0.9", "rpc_version": "1.1"}
    direct_control.check_version(beat, "trigger_crash_dump")
    with pytest.raises(
        direct_control.NothingCast, match=r"^the agent on compute-1 \(release 0\.9\) does not support this: set_watchdog needs"
    ):
        direct_control.check_version(beat, "set_watchdog")
    with pytest.raises(direct_control.NothingCast):
        direct_control.check_version({**beat, "rpc_version": "2.3"}, "set_watchdog")


@pytest.mark.parametrize("queue", ["compute_agent.HOST", RECORDER_QUEUES[0].name, "consumer.other"])
def test_a_controllers_account_takes_nothing_out_of_others_queues(lab: Lab, queue: str) -> None:
    link = PatientAddress(lab.url, name="controller").open_link(heartbeat=0)
    with pytest.raises(AccessRefused):
        link.channel().basic_consume(queue.replace("HOST", lab.signed), callback=print)
    link.collect()


def test_a_controllers_account_tells_no_events(lab: Lab) -> None:
    link = PatientAddress(lab.url, name="controller").open_link(heartbeat=0)
    channel = link.channel()
    channel.confirm_select()
    with pytest.raises(AccessRefused):
        channel.basic_publish_confirm(channel.prepare_message(b"{}"), exchange=EVENTS_EXCHANGE.name, routing_key="notifications.info")
    link.collect()
