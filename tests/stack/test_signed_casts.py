"""A host that trusts certain keys, over a real broker: who has no more than an agent's account there reaches its queue, and nothing else.

The default exchange takes what any account publishes that may reply, to every queue. What comes that way is refused unless the gateway
signed it, for this host, as it is and for the first time; the honest cast beside it is carried out.
"""

import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import kombu
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.signing import CONTEXT_KEY, CastSigner
from compute_agent.contract.signing_keys import create_key_files, read_private_key
from compute_agent.contract.transport import RPC_EXCHANGE, RPC_TOPIC, oslo_messaging
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, wait_until
from tests.stack.broker_events import PatientAddress, open_quiet_link
from tests.stack.conftest import INTRUDER
from tests.stack.test_agent_over_broker import Agent, Bench

_PACKED = f"_context_{CONTEXT_KEY}"
Message = dict[str, Any]


class HastyAgent(Agent):
    """Tells of refusals as soon as they come."""

    program = "import compute_agent.cast_gate\ncompute_agent.cast_gate.TOLD_EVERY_SECONDS = 0.0\n" + Agent.program


class Spy:
    """A queue beside the host's own: sees what is cast to it, as whoever may read that queue would."""

    def __init__(self, broker: PrivateRabbitMQ, host: str) -> None:
        self._link = open_quiet_link(broker, "spy")
        self._channel = self._link.channel()
        self._queue = kombu.Queue(f"spy.{uuid.uuid4().hex[:8]}", durable=True, expires=600)(self._channel)
        self._queue.queue_declare()
        self._channel.queue_bind(self._queue.name, RPC_EXCHANGE, f"{RPC_TOPIC}.{host}")

    def capture(self) -> Message:
        """The next message that was cast."""
        received = wait_until(lambda: self._channel.basic_get(self._queue.name, no_ack=True), 10, "a cast to capture")
        return dict(json.loads(json.loads(received.body)["oslo.message"]))

    def close(self) -> None:
        self._link.close()


class Intruder:
    """Has the account of another host's agent, and publishes what it likes to this one's queue."""

    def __init__(self, broker: PrivateRabbitMQ, host: str) -> None:
        self._queue = f"{RPC_TOPIC}.{host}"
        self._link = PatientAddress(broker.build_agent_url(INTRUDER), name="intruder").open_link(heartbeat=0)
        self._channel = self._link.channel()
        self._channel.confirm_select()

    def publish(self, message: Message) -> None:
        """Under an id of its own: oslo.messaging drops a copy that has the original's, for a while."""
        fresh = {**message, "_unique_id": uuid.uuid4().hex}
        body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(fresh)})
        prepared = self._channel.prepare_message(body, content_type="application/json", content_encoding="utf-8")
        self._channel.basic_publish_confirm(prepared, exchange="", routing_key=self._queue, mandatory=True)

    def close(self) -> None:
        self._link.close()


class Lab(Bench):
    """A bench whose agent trusts one key, that key's signer, and an intruder."""

    def __init__(self, tmp_path: Path, broker: PrivateRabbitMQ) -> None:
        (tmp_path / "trusted").mkdir()
        private, public = create_key_files(tmp_path, "gateway")
        public.rename(tmp_path / "trusted" / public.name)
        self.key = read_private_key(private)
        super().__init__(tmp_path, broker)
        self.unsigned = self.api
        self.signer = CastSigner("gateway", self.key, SystemClock())
        self.api = ComputeAgentAPI(self.transport, signer=self.signer)
        self.intruder = Intruder(broker, self.host)
        self._open = ExitStack()
        self._open.callback(self.intruder.close)

    def begin(self) -> None:
        """The agent serves, and an honest cast has been carried out."""
        self.agent.start()
        self.heartbeat = self.wait_for_heartbeat()
        self.panicking, self.surviving = self.find_servers(self.heartbeat)
        # Before the spy is there: what only its queue takes counts as routed too, and would not be cast again.
        self.agent.wait_taking_in()
        self.spy = Spy(self.broker, self.host)
        self._open.callback(self.spy.close)
        self.honest = self.trigger_crash_dump()

    def make_agent(self, name: str) -> Agent:
        signing = f"[signing]\ntrusted_keys = {self.tmp_path / 'trusted'}\n"
        return self.add(HastyAgent(self.tmp_path / name, self.broker, self.host, signing))

    def trigger_crash_dump(self) -> Message:
        """The honest way; returns what was on the wire."""
        request = self.build(self.heartbeat, self.surviving)
        self.cast(request.model_copy(update={"force": True}))
        assert self.ear.wait_for_event("action.ended", request.id)["code"] == "signal_delivered"
        return self.spy.capture()

    def count_journalled(self) -> int:
        with sqlite3.connect(f"file:{self.agent.directory / 'journal.sqlite'}?mode=ro", uri=True) as journal:
            (count,) = journal.execute("SELECT count(*) FROM actions").fetchone()
        return int(count)

    def count_refused(self) -> Counter[str]:
        refused: Counter[str] = Counter()
        for told in self.ear.events("agent.cast_refused"):
            reasons = told["reasons"]
            assert isinstance(reasons, dict)
            refused.update(reasons)
        return refused

    def close(self) -> None:
        self._open.close()
        super().close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, broker: PrivateRabbitMQ) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("signed"), broker)
    try:
        lab.begin()
        yield lab
    finally:
        lab.close()


def make_another(lab: Lab) -> Message:
    """As the honest one, but an action of its own."""
    another = deepcopy(lab.honest)
    another["args"]["action"]["id"] = f"req-{uuid.uuid4()}"
    return another


def drop_signature(lab: Lab) -> Message:
    return {name: value for name, value in make_another(lab).items() if name != _PACKED}


def sign(lab: Lab, *, issuer: str = "gateway", key: Ed25519PrivateKey | None = None, host: str | None = None) -> Message:
    another = make_another(lab)
    signer = CastSigner(issuer, key or lab.key, SystemClock())
    return {**another, _PACKED: signer.sign(host or lab.host, another["method"], another["args"])[CONTEXT_KEY]}


def alter_server(lab: Lab) -> Message:
    altered = deepcopy(lab.honest)
    altered["args"]["action"]["server"] = lab.panicking
    return altered


FORGERIES: dict[str, tuple[Callable[[Lab], Message], str]] = {
    "unsigned": (drop_signature, "unsigned"),
    "by a stranger": (lambda lab: sign(lab, issuer="stranger", key=Ed25519PrivateKey.generate()), "unknown_issuer"),
    "by a stranger in the gateway's name": (lambda lab: sign(lab, key=Ed25519PrivateKey.generate()), "unknown_issuer"),
    "replayed": (lambda lab: lab.honest, "replayed"),
    "replayed with another action": (make_another, "altered"),
    "altered": (alter_server, "altered"),
    "redirected from another host": (lambda lab: sign(lab, host=INTRUDER), "another_host"),
    "as another verb": (lambda lab: {**lab.honest, "method": "resend_events", "args": {"events": {}}}, "altered"),
}


@pytest.mark.parametrize(("forge", "reason"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_cast_is_refused_and_the_honest_one_beside_it_is_carried_out(
    lab: Lab, forge: Callable[[Lab], Message], reason: str
) -> None:
    signals, journalled, refused = lab.agent.count_signals(), lab.count_journalled(), lab.count_refused()
    lab.intruder.publish(forge(lab))
    lab.ear.wait_for(lambda: lab.count_refused() != refused, "the event of a refusal")
    assert lab.count_refused() - refused == Counter([reason])
    assert (lab.agent.count_signals(), lab.count_journalled()) == (signals, journalled)
    lab.trigger_crash_dump()
    assert (lab.agent.count_signals(), lab.count_journalled()) == (signals + 1, journalled + 1)


def test_who_asks_without_a_signature_is_told_no_and_the_gateway_is_answered(lab: Lab) -> None:
    with pytest.raises(oslo_messaging.RemoteError, match="unsigned"):
        lab.unsigned.ping(lab.host, timeout=10 * PATIENCE)
    assert lab.api.ping(lab.host, timeout=10 * PATIENCE).journal_id == lab.heartbeat.journal_id


def test_after_a_restart_the_journal_holds_what_the_agent_has_forgotten(lab: Lab) -> None:
    """Nonces are kept in memory: a copy of an action that has ended is taken for the gateway's own repetition, and never run again."""
    signals, journalled = lab.agent.count_signals(), lab.count_journalled()
    action_id = lab.honest["args"]["action"]["id"]
    lab.agent.kill()
    lab.agent.start()
    lab.wait_for_heartbeat()
    lab.intruder.publish(lab.honest)
    lab.ear.wait_for_event("action.ended", action_id)
    assert (lab.agent.count_signals(), lab.count_journalled()) == (signals, journalled)
