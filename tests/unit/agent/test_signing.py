"""Signatures of casts: what holds, what is refused and why, whatever is changed, and for how long it is remembered."""

import base64
import json
import math
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from compute_agent.contract import versions
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.signing import (
    CALL_MAX_AGE,
    CALLS,
    CONTEXT_KEY,
    CastRefused,
    CastSigner,
    CastVerifier,
    Refusal,
    TrustedKeys,
    canonical_json,
)
from compute_agent.contract.transport import create_rpc_transport, oslo_messaging, register_messaging_options
from tests.contract import golden
from tests.fakes import FakeClock

HOST = "host-1"
METHOD = "trigger_crash_dump"
MAX_AGE = timedelta(hours=1)
KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
ARGUMENTS = {"action": golden.REQUEST.to_wire()}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=15,
)
few = settings(max_examples=30, deadline=None, derandomize=True)
"""Examples in each run, the same ones in each."""
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
ARGUMENT_SETS = st.dictionaries(NAMES, JSON, max_size=3)


class Parties:
    """One gateway, one agent that trusts it, and their clock."""

    def __init__(self, *, keys: TrustedKeys | None = None, nonces_kept: int = 1000) -> None:
        self.clock = FakeClock()
        self.signer = CastSigner("gateway", KEY, self.clock)
        trusted = {"gateway": (KEY.public_key(),)} if keys is None else keys
        self.verifier = CastVerifier(trusted, HOST, self.clock, cast_max_age=MAX_AGE, nonces_kept=nonces_kept)

    def sign(self, method: str = METHOD, host: str = HOST, signer: CastSigner | None = None) -> dict[str, Any]:
        return (signer or self.signer).sign(host, method, ARGUMENTS)

    def find_refusal(self, context: dict[str, Any], arguments: dict[str, Any] | None = None, method: str = METHOD) -> Refusal | None:
        try:
            self.verifier.verify(method, context, ARGUMENTS if arguments is None else arguments)
        except CastRefused as refused:
            return refused.reason
        return None


@pytest.fixture
def parties() -> Parties:
    return Parties()


def send_through_oslo(context: dict[str, Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """As the rabbit driver packs, writes, reads and unpacks a message."""
    drivers = oslo_messaging._drivers
    message: dict[str, Any] = {"method": METHOD, "args": arguments}
    drivers.amqp.pack_context(message, context)
    body = json.dumps(drivers.common.serialize_msg(message))
    received = drivers.common.deserialize_msg(json.loads(body))
    return drivers.amqp.unpack_context(received).to_dict(), received["args"]


def test_what_a_trusted_issuer_signed_for_this_host_is_taken_in_once(parties: Parties) -> None:
    context = parties.sign()
    assert parties.verifier.verify(METHOD, context, ARGUMENTS) == "gateway"
    assert parties.find_refusal(context) is Refusal.REPLAYED
    assert parties.find_refusal(parties.sign()) is None, "the same request again, signed anew, is a second attempt"


def test_without_a_signature_nothing_is_taken_in(parties: Parties) -> None:
    assert parties.find_refusal({}) is Refusal.UNSIGNED
    assert parties.find_refusal({"user": "admin", CONTEXT_KEY: None}) is Refusal.UNSIGNED


def test_whom_this_host_does_not_trust_is_refused_under_any_name(parties: Parties) -> None:
    stranger, impostor = CastSigner("stranger", OTHER_KEY, parties.clock), CastSigner("gateway", OTHER_KEY, parties.clock)
    assert parties.find_refusal(parties.sign(signer=stranger)) is Refusal.UNKNOWN_ISSUER
    assert parties.find_refusal(parties.sign(signer=impostor)) is Refusal.UNKNOWN_ISSUER
    forged = parties.sign(signer=impostor)
    forged[CONTEXT_KEY]["key_id"] = parties.sign()[CONTEXT_KEY]["key_id"]
    assert parties.find_refusal(forged) is Refusal.ALTERED


def test_what_was_signed_for_another_host_is_refused(parties: Parties) -> None:
    assert parties.find_refusal(parties.sign(host="host-2")) is Refusal.ANOTHER_HOST
    redirected = parties.sign(host="host-2")
    redirected[CONTEXT_KEY]["host"] = HOST
    assert parties.find_refusal(redirected) is Refusal.ALTERED


@few
@given(arguments=ARGUMENT_SETS)
def test_a_signature_holds_after_the_way_through_oslo_messaging_whatever_the_arguments_are(arguments: dict[str, Any]) -> None:
    parties = Parties()
    context, received = send_through_oslo(parties.signer.sign(HOST, METHOD, arguments), arguments)
    assert parties.find_refusal(context, received) is None


@few
@given(value=JSON)
def test_canonical_json_is_the_same_after_a_way_through_json_and_in_any_order(value: Any) -> None:
    assert canonical_json(json.loads(json.dumps(value))) == canonical_json(value)
    assert canonical_json(json.loads(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False))) == canonical_json(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": {1, 2}}, b"bytes"])
def test_what_json_does_not_have_is_not_signed(parties: Parties, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        parties.signer.sign(HOST, METHOD, {"action": value})


def list_places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in list_places(part, (*path, key)))]


def replace(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = deepcopy(value)
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return copy


@few
@given(place=st.sampled_from(list_places(ARGUMENTS)[1:]), new=JSON)
def test_any_part_of_the_arguments_that_was_changed_is_noticed(place: tuple[Any, ...], new: Any) -> None:
    parties = Parties()
    changed = replace(ARGUMENTS, place, new)
    assume(canonical_json(changed) != canonical_json(ARGUMENTS))
    assert parties.find_refusal(parties.sign(), changed) is Refusal.ALTERED


@few
@given(more=st.dictionaries(NAMES, JSON, min_size=1, max_size=2))
def test_arguments_that_were_added_or_taken_away_are_noticed(more: dict[str, Any]) -> None:
    parties = Parties()
    assume("action" not in more)
    assert parties.find_refusal(parties.sign(), {**ARGUMENTS, **more}) is Refusal.ALTERED
    assert parties.find_refusal(parties.sign(), {}) is Refusal.ALTERED


@pytest.mark.parametrize("method", sorted({name for version in versions.RPC_HISTORY for name in version.methods} - {METHOD}))
def test_a_signature_for_one_method_is_none_for_another(parties: Parties, method: str) -> None:
    assert parties.find_refusal(parties.sign(), method=method) is Refusal.ALTERED


FIELDS = tuple(Parties().sign()[CONTEXT_KEY])


@few
@given(field=st.sampled_from(FIELDS), new=JSON)
def test_any_field_of_the_signature_that_was_changed_is_refused(field: str, new: Any) -> None:
    parties = Parties()
    context = parties.sign()
    assume(repr(context[CONTEXT_KEY][field]) != repr(new))
    context[CONTEXT_KEY][field] = new
    assert parties.find_refusal(context) in (Refusal.ALTERED, Refusal.UNKNOWN_ISSUER)


@few
@given(field=st.sampled_from(FIELDS[1:]), data=st.data())
def test_one_character_that_was_changed_anywhere_in_the_signature_is_refused(field: str, data: st.DataObject) -> None:
    parties = Parties()
    context = parties.sign()
    text = context[CONTEXT_KEY][field]
    position = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda character: character != text[position]))
    changed = text[:position] + character + text[position + 1 :]
    assume(field != "signature" or _decode(changed) != _decode(text))
    context[CONTEXT_KEY][field] = changed
    assert parties.find_refusal(context) in (Refusal.ALTERED, Refusal.UNKNOWN_ISSUER)


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


@few
@given(body=JSON)
def test_whatever_comes_as_a_signature_is_refused_and_never_a_fault(body: Any) -> None:
    assert Parties().find_refusal({CONTEXT_KEY: body}) in (Refusal.UNSIGNED, Refusal.ALTERED)


@pytest.mark.parametrize("arguments", [{"action": math.nan}, {"action": {1: 2, "b": 3}}, {"action": object()}])
def test_arguments_that_cannot_have_been_signed_are_refused(parties: Parties, arguments: dict[str, Any]) -> None:
    assert parties.find_refusal(parties.sign(), arguments) is Refusal.ALTERED


@pytest.mark.parametrize("signed_at", ["yesterday", "2026-11-21T17:00:00", "0001-01-01T00:00:00+23:59", ""])
def test_a_time_that_is_none_is_refused(parties: Parties, signed_at: str) -> None:
    context = parties.sign()
    context[CONTEXT_KEY]["signed_at"] = signed_at
    assert parties.find_refusal(context) is Refusal.ALTERED


class TestIssuersAndKeys:
    def test_two_issuers_are_each_known_by_their_own_key(self) -> None:
        parties = Parties(keys={"gateway": (KEY.public_key(),), "second": (OTHER_KEY.public_key(),)})
        second = CastSigner("second", OTHER_KEY, parties.clock)
        assert parties.verifier.verify(METHOD, parties.sign(signer=second), ARGUMENTS) == "second"
        assert parties.find_refusal(parties.sign()) is None
        swapped = CastSigner("second", KEY, parties.clock)
        assert parties.find_refusal(parties.sign(signer=swapped)) is Refusal.UNKNOWN_ISSUER

    def test_while_a_key_is_exchanged_the_old_and_the_new_one_hold_and_then_the_new_one_only(self) -> None:
        parties = Parties(keys={"gateway": (KEY.public_key(), OTHER_KEY.public_key())})
        renewed = CastSigner("gateway", OTHER_KEY, parties.clock)
        assert parties.find_refusal(parties.sign()) is None
        assert parties.find_refusal(parties.sign(signer=renewed)) is None
        used = parties.sign(signer=renewed)
        assert parties.find_refusal(used) is None
        parties.verifier.trust({"gateway": (OTHER_KEY.public_key(),)})
        assert parties.find_refusal(parties.sign()) is Refusal.UNKNOWN_ISSUER
        assert parties.find_refusal(parties.sign(signer=renewed)) is None
        assert parties.find_refusal(used) is Refusal.REPLAYED, "what was used stays used when keys are read again"

    def test_two_issuers_may_come_upon_the_same_nonce(self) -> None:
        parties = Parties(keys={"gateway": (KEY.public_key(),), "second": (OTHER_KEY.public_key(),)})
        for issuer, key in (("gateway", KEY), ("second", OTHER_KEY)):
            signer = CastSigner(issuer, key, parties.clock, new_nonce=lambda: "0")
            assert parties.find_refusal(parties.sign(signer=signer)) is None


class TestTime:
    @pytest.mark.parametrize(("method", "limit"), [(METHOD, MAX_AGE), ("resend_events", MAX_AGE), ("ping", CALL_MAX_AGE)])
    def test_what_is_older_than_may_be_is_refused(self, parties: Parties, method: str, limit: timedelta) -> None:
        context, older = (parties.sign(method) for _ in range(2))
        parties.clock.advance(limit.total_seconds())
        assert parties.find_refusal(context, method=method) is None
        parties.clock.advance(0.001)
        assert parties.find_refusal(older, method=method) is Refusal.TOO_OLD

    @pytest.mark.parametrize(("method", "limit"), [(METHOD, MAX_AGE), ("ping", CALL_MAX_AGE)])
    def test_clocks_may_differ_by_as_much_and_no_more(self, parties: Parties, method: str, limit: timedelta) -> None:
        """Whether a deadline can be trusted is told where the action is taken up."""
        ahead = FakeClock(parties.clock.now() + limit)
        signer = CastSigner("gateway", KEY, ahead)
        assert parties.find_refusal(parties.sign(method, signer=signer), method=method) is None
        ahead.advance(0.001)
        assert parties.find_refusal(parties.sign(method, signer=signer), method=method) is Refusal.FROM_THE_FUTURE

    def test_every_method_that_waits_for_an_answer_is_a_call(self) -> None:
        samples = {name: sample for name, sample in golden.make_rpc_samples().items() if "message" in sample}
        assert {sample["message"]["method"] for sample in samples.values() if sample["waits_for_reply"]} == CALLS


class TestMemory:
    def test_it_is_bounded_and_what_was_forgotten_is_still_refused(self) -> None:
        parties = Parties(nonces_kept=10)
        contexts = []
        for _ in range(50):
            contexts.append(parties.sign())
            assert parties.find_refusal(contexts[-1]) is None
            parties.clock.advance(1)
        assert len(parties.verifier._casts) == 10
        assert {parties.find_refusal(context) for context in contexts} == {Refusal.REPLAYED}

    def test_what_is_too_old_is_forgotten(self, parties: Parties) -> None:
        for _ in range(5):
            assert parties.find_refusal(parties.sign()) is None
        parties.clock.advance(MAX_AGE.total_seconds() + 1)
        assert parties.find_refusal(parties.sign()) is None
        assert len(parties.verifier._casts) == 1

    def test_a_clock_that_is_set_back_makes_nothing_young_again(self, parties: Parties) -> None:
        used = parties.sign()
        assert parties.find_refusal(used) is None
        parties.clock.advance(MAX_AGE.total_seconds() + 1)
        assert parties.find_refusal(parties.sign()) is None
        parties.clock.step(-MAX_AGE.total_seconds())
        assert parties.find_refusal(used) is Refusal.REPLAYED

    def test_a_gateway_whose_clock_was_ahead_for_a_moment_is_obeyed_when_it_is_not(self) -> None:
        """However much it said since: what is forgotten are the oldest casts, not those that it sent first."""
        parties = Parties(nonces_kept=10)
        ahead = CastSigner("gateway", KEY, FakeClock(parties.clock.now() + MAX_AGE))
        used = parties.sign(signer=ahead)
        assert parties.find_refusal(used) is None
        for _ in range(30):
            parties.clock.advance(1)
            assert parties.find_refusal(parties.sign()) is None
        assert parties.find_refusal(used) is Refusal.REPLAYED

    def test_calls_take_no_room_from_casts(self) -> None:
        parties = Parties(nonces_kept=2)
        cast = parties.sign()
        parties.clock.advance(1)
        assert parties.find_refusal(cast) is None
        for _ in range(5):
            assert parties.find_refusal(parties.sign("ping"), method="ping") is None
            parties.clock.advance(1)
        assert len(parties.verifier._casts) == 1

    @few
    @given(order=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=40), kept=st.integers(1, 5))
    def test_nothing_is_ever_taken_in_twice(self, order: list[tuple[int, int]], kept: int) -> None:
        """However often, late and disordered copies come, and whatever is forgotten meanwhile."""
        parties = Parties(nonces_kept=kept)
        contexts: list[dict[str, Any]] = []
        for _ in range(10):
            contexts.append(parties.sign())
            parties.clock.advance(60)
        taken: list[int] = []
        for number, pause in order:
            if parties.find_refusal(contexts[number]) is None:
                taken.append(number)
            parties.clock.advance(pause)
        assert len(taken) == len(set(taken))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a later format": lambda signature: signature.update(v=2),
    "a format that is true": lambda signature: signature.update(v=True),
    "a nonce of a megabyte": lambda signature: signature.update(nonce="0" * 1_000_000),
    "no nonce": lambda signature: signature.pop("nonce"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_signature_of_another_form_is_refused(parties: Parties, change: Callable[[dict[str, Any]], object]) -> None:
    context = parties.sign()
    change(context[CONTEXT_KEY])
    assert parties.find_refusal(context) is Refusal.ALTERED


def test_the_signature_is_the_one_that_was_recorded() -> None:
    """Both sides of one release apart must write the same bytes: the statement's form may not change unseen."""
    sample = golden.make_samples()["rpc/signature.json"]
    keys = {golden.ISSUER: (golden.SIGNING_KEY.public_key(),)}
    verifier = CastVerifier(keys, golden.HOST, FakeClock(golden.MOMENT), cast_max_age=MAX_AGE)
    assert verifier.verify("trigger_crash_dump", sample["context"], {"action": golden.REQUEST.to_wire()}) == golden.ISSUER
    assert datetime.fromisoformat(sample["context"][CONTEXT_KEY]["signed_at"]) == golden.MOMENT


def test_every_attempt_of_every_cast_and_call_is_signed_anew() -> None:
    """The dispatcher casts one action again until it is heard of: to the agent each of these is new."""
    parties = Parties()
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    register_messaging_options(conf)
    conf.set_override("transport_url", "fake://")
    transport = create_rpc_transport(conf)
    sent: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def deliver(target: object, context: dict[str, Any], message: dict[str, Any], **_options: object) -> Any:
        sent.append((message["method"], context, message["args"]))
        return golden.PING_REPLY.to_wire() if message["method"] == "ping" else None

    api = ComputeAgentAPI(transport, signer=parties.signer)
    with mock.patch.object(transport._driver, "send", deliver):
        for _ in range(2):
            api.cast_action(golden.REQUEST.model_copy(update={"host": HOST}))
            api.resend_events(HOST, golden.EVENT_RANGE)
            api.report_inventory(HOST)
            api.ping(HOST, timeout=5)
    transport.cleanup()
    assert len(sent) == 8
    assert [parties.find_refusal(context, arguments, method) for method, context, arguments in sent] == [None] * 8
