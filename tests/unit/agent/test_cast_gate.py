"""Nothing is done of a cast whose signature does not hold, whichever verb it is, and that it came is told, once a minute at most."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compute_agent.action_queue import ActionQueue
from compute_agent.cast_gate import TOLD_EVERY_SECONDS, TRIED_EVERY_SECONDS, CastGate
from compute_agent.contract import versions
from compute_agent.contract.models import BlackBoxChunk
from compute_agent.contract.signing import CastRefused, CastSigner, CastVerifier
from compute_agent.contract.transport import oslo_messaging
from compute_agent.endpoint import Endpoint
from compute_agent.journal import JournalUnusable
from tests.contract import golden
from tests.unit.agent.action_parts import HOST, Agent

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
METHODS = sorted(method for version in versions.RPC_HISTORY for method in version.methods)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "resend_events": {"events": golden.EVENT_RANGE.to_wire()},
    "report_inventory": {},
    "ping": {},
    "get_diagnostics": {"server": golden.SERVER_ID, "history": False},
    "get_black_box": {"black_box_id": golden.BLACK_BOX_ID, "part": "state.json", "offset": 0},
}


class Guarded:
    """An agent whose endpoint is reached through oslo.messaging's own dispatcher, and what its verbs were let to do."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.done: list[object] = []
        self.signer = CastSigner("gateway", KEY, agent.clock)
        verifier = CastVerifier({"gateway": (KEY.public_key(),)}, HOST, agent.clock, cast_max_age=timedelta(hours=1))
        self.gate = CastGate(verifier, agent.journal, agent.clock, HOST)
        endpoint = Endpoint(
            agent.journal,
            ActionQueue(),
            agent.clock,
            HOST,
            get_diagnostics=lambda server, history: self.done.append("get_diagnostics"),
            get_black_box=lambda *place: self.done.append("get_black_box") or BlackBoxChunk(total=None),
            on_resend=self.done.append,
            on_report_inventory=lambda: self.done.append("report_inventory"),
            is_host_ours=lambda: self.done.append("anything") or True,
            gate=self.gate,
        )
        self._dispatcher = oslo_messaging.RPCDispatcher([endpoint], None, oslo_messaging.DefaultRPCAccessPolicy)

    def send(self, method: str, context: dict[str, Any], arguments: dict[str, Any]) -> Any:
        return self._dispatcher.dispatch(_Incoming(context, {"method": method, "args": arguments, "version": versions.RPC_API_VERSION}))

    def find_refusal(self, method: str, context: dict[str, Any], arguments: dict[str, Any]) -> str | None:
        try:
            self.send(method, context, arguments)
        except oslo_messaging.ExpectedException as refused:
            _, error, _ = refused.exc_info
            assert isinstance(error, CastRefused)
            return error.reason
        return None

    def list_told(self) -> list[dict[str, Any]]:
        return [event.payload for event in self.agent.list_events("agent.cast_refused")]


class _Incoming:
    """What the dispatcher uses of a driver's message."""

    client_timeout = None

    def __init__(self, ctxt: dict[str, Any], message: dict[str, Any]) -> None:
        self.ctxt, self.message = ctxt, message


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "journal.sqlite")
    yield agent
    agent.journal.close()


@pytest.fixture
def guarded(agent: Agent) -> Guarded:
    return Guarded(agent)


def make_arguments(method: str) -> dict[str, Any]:
    return ARGUMENTS.get(method, {"action": golden.REQUEST.model_copy(update={"host": HOST}).to_wire()})


@pytest.mark.parametrize("method", METHODS)
def test_no_verb_does_anything_without_a_signature_that_holds(guarded: Guarded, method: str) -> None:
    arguments = make_arguments(method)
    signed = guarded.signer.sign("another-host", method, arguments)
    assert guarded.find_refusal(method, {}, arguments) == "unsigned"
    assert guarded.find_refusal(method, signed, arguments) == "another_host"
    assert guarded.find_refusal(method, guarded.signer.sign(HOST, method, arguments), {**arguments, "more": 1}) == "altered"
    assert (guarded.done, guarded.agent.list_events("action.received")) == ([], [])


@pytest.mark.parametrize("method", ["trigger_crash_dump", "report_inventory", "ping"])
def test_what_is_signed_is_done_and_its_copy_is_not(guarded: Guarded, method: str) -> None:
    arguments = make_arguments(method)
    context = guarded.signer.sign(HOST, method, arguments)
    assert guarded.find_refusal(method, context, arguments) is None
    done = len(guarded.done), len(guarded.agent.list_events("action.received"))
    assert guarded.find_refusal(method, context, arguments) == "replayed"
    assert (len(guarded.done), len(guarded.agent.list_events("action.received"))) == done


def test_refusals_are_told_at_once_and_then_once_a_minute(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    clock = guarded.agent.clock
    began = clock.now()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            guarded.find_refusal("ping", {}, {})
    assert [(told["count"], told["reasons"]) for told in guarded.list_told()] == [(1, {"unsigned": 1})]
    assert len([record for record in caplog.records if "casts refused" in record.message]) == 1

    clock.advance(TOLD_EVERY_SECONDS - 1)
    guarded.find_refusal("ping", {"crashcart_signature": "?"}, {})
    guarded.gate.tell()
    assert len(guarded.list_told()) == 1
    clock.advance(1)
    guarded.gate.tell()
    told = guarded.list_told()[1]
    assert (told["count"], told["reasons"]) == (1000, {"unsigned": 999, "altered": 1})
    assert datetime.fromisoformat(told["since"]) == began

    clock.advance(TOLD_EVERY_SECONDS)
    guarded.gate.tell()
    assert len(guarded.list_told()) == 2, "nothing came, so there is nothing to tell"


def test_what_could_not_be_told_is_told_later(guarded: Guarded, tmp_path: Path) -> None:
    path = guarded.agent.path
    path.rename(tmp_path / "away")
    assert guarded.find_refusal("ping", {}, {}) == "unsigned"
    guarded.gate.tell()  # which was tried just now
    guarded.agent.clock.advance(TRIED_EVERY_SECONDS)
    with pytest.raises(JournalUnusable):
        guarded.gate.tell()
    (tmp_path / "away").rename(path)
    guarded.agent.clock.advance(TRIED_EVERY_SECONDS)
    guarded.gate.tell()
    assert [told["count"] for told in guarded.list_told()] == [1]


def test_without_trusted_keys_everything_passes_signed_or_not(agent: Agent) -> None:
    """A gateway that signs may be upgraded before its agents know of keys, and the other way round."""
    request = agent.make_request(agent.make_server())
    arguments = {"action": request.to_wire()}
    context = CastSigner("gateway", KEY, agent.clock).sign(HOST, "trigger_crash_dump", arguments)
    agent.endpoint.trigger_crash_dump(context, **arguments)
    agent.endpoint.trigger_crash_dump({}, **arguments)
    assert len(agent.list_events("action.received")) == 1
