"""What this release puts on the wire is what its golden samples say, and it still reads those of every release."""

import inspect
import json
from typing import Any

import pytest

from compute_agent.contract import events, notifications, rpcapi, versions
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import ActionKind, ActionRequest, BlackBoxChunk, EventRange, Heartbeat, PingReply
from compute_agent.contract.transport import oslo_messaging
from compute_agent.endpoint import Endpoint
from tests.contract import golden
from tests.contract.recorded_rpc import record_rpc

deserialise = oslo_messaging._drivers.common.deserialize_msg
RELEASES_WITH_SAMPLES = sorted(path.name for path in golden.SAMPLES.iterdir())


def list_methods(version: str) -> set[str]:
    """Those of an RPC version and of all before it."""
    numbers = [row.number for row in versions.RPC_HISTORY]
    return {method for row in versions.RPC_HISTORY[: numbers.index(version) + 1] for method in row.methods}


@pytest.fixture(scope="module")
def samples() -> dict[str, Any]:
    return golden.make_samples()


def test_what_is_sent_equals_the_golden_samples(samples: dict[str, Any]) -> None:
    recorded = golden.read_samples(versions.RELEASE)
    written = {name: golden.format_sample(sample) for name, sample in samples.items()}
    differing = sorted(name for name in recorded.keys() | written.keys() if recorded.get(name) != written.get(name))
    assert not differing, (
        f"the wire format of {', '.join(differing)} is not what tests/contract/samples/{versions.RELEASE} says. If that is meant, "
        "add a version (compute_agent/contract/versions.py) and run: python -m tests.contract.regenerate"
    )


def test_every_rpc_method_has_a_sample(samples: dict[str, Any]) -> None:
    methods = {method for version in versions.RPC_HISTORY for method in version.methods}
    sampled = {sample["message"]["method"] for name, sample in samples.items() if name.startswith("rpc/") and "message" in sample}
    assert sampled == methods


def test_every_event_type_has_a_sample(samples: dict[str, Any]) -> None:
    sampled = {name.removeprefix("events/").removesuffix(".json") for name in samples if name.startswith("events/")}
    assert sampled == {*events.EVENT_TYPES, notifications.HEARTBEAT_TYPE}


def test_every_release_has_its_samples() -> None:
    assert sorted(versions.RELEASES) == RELEASES_WITH_SAMPLES


def test_every_key_of_every_payload_is_used_in_its_sample() -> None:
    """A key that no sample holds could be renamed unseen."""
    for event_type, row in events.EVENT_TYPES.items():
        assert golden.make_payload(event_type).keys() == row.payload.model_fields.keys(), event_type


def test_casts_are_mandatory_and_do_not_wait_and_the_call_does(samples: dict[str, Any]) -> None:
    """A cast to a host without a queue must be told apart from one that was perhaps delivered."""
    for method in ("trigger_crash_dump", "resend_events", "report_inventory"):
        sample = samples[f"rpc/{method}.json"]
        assert (sample["mandatory"], sample["waits_for_reply"]) == (True, False), method
    assert samples["rpc/ping.json"]["waits_for_reply"]


def test_each_method_is_sent_with_the_version_that_brought_it(samples: dict[str, Any]) -> None:
    for name, sample in samples.items():
        if name.startswith("rpc/") and "message" in sample:
            assert sample["message"]["version"] == versions.get_version_of_method(sample["message"]["method"])


def test_every_kind_of_action_has_an_rpc_method() -> None:
    methods = {method for version in versions.RPC_HISTORY for method in version.methods}
    assert set(rpcapi.METHOD_OF_KIND.values()) <= methods
    assert set(rpcapi.METHOD_OF_KIND) == set(type(next(iter(rpcapi.METHOD_OF_KIND))))


@pytest.mark.parametrize("release", versions.RELEASES)
def test_pinned_to_a_release_what_is_sent_is_what_that_release_sent_and_nothing_that_it_does_not_know(release: str) -> None:
    pin = versions.RELEASES[release].rpc
    known = {name: json.loads(text) for name, text in golden.read_samples(release).items() if name.startswith("rpc/")}
    expected = {sample["message"]["method"]: sample for sample in known.values() if "message" in sample}
    sent, refused = record_rpc(golden.RPC_VERBS, golden.REPLIES, pin)
    assert sent == expected
    assert refused == golden.RPC_VERBS.keys() - expected.keys()


@pytest.mark.parametrize("pin", [version.number for version in versions.RPC_HISTORY])
def test_pinned_to_a_version_its_methods_are_sent_and_no_others(pin: str) -> None:
    known = list_methods(pin)
    sent, refused = record_rpc(golden.RPC_VERBS, golden.REPLIES, pin)
    assert set(sent) == known
    assert refused == golden.RPC_VERBS.keys() - known


@pytest.mark.parametrize("release", RELEASES_WITH_SAMPLES)
def test_the_requests_of_every_release_can_still_be_read(release: str) -> None:
    recorded = {name: json.loads(text) for name, text in golden.read_samples(release).items() if name.startswith("rpc/")}
    messages = [sample["message"] for sample in recorded.values() if "message" in sample]
    for message in messages:
        assert message["version"] == versions.get_version_of_method(message["method"])
        inspect.signature(getattr(Endpoint, message["method"])).bind(None, {}, **message["args"])
        if "action" in message["args"]:
            kind = ActionKind.TRIGGER_CRASH_DUMP if message["method"] == "cancel_action" else message["method"]
            assert ActionRequest.from_wire(message["args"]["action"]) == golden.REQUEST.model_copy(update={"kind": kind})
    assert {message["method"] for message in messages} == list_methods(versions.RELEASES[release].rpc)
    assert EventRange.from_wire(recorded["rpc/resend_events.json"]["message"]["args"]["events"]) == golden.EVENT_RANGE
    reply = PingReply.from_wire(recorded["rpc/ping.reply.json"])
    assert (reply.host, reply.release) == (golden.HOST, release)
    assert DiagnosticsReply.from_wire(recorded["rpc/get_diagnostics.reply.json"]) == golden.DIAGNOSTICS_REPLY
    assert BlackBoxChunk.from_wire(recorded["rpc/get_black_box.reply.json"]) == golden.BLACK_BOX_CHUNK


@pytest.mark.parametrize("release", RELEASES_WITH_SAMPLES)
def test_the_events_of_every_release_can_still_be_read(release: str) -> None:
    for name, text in golden.read_samples(release).items():
        if not name.startswith("events/"):
            continue
        envelope = json.loads(text)
        body = json.dumps({**envelope, "oslo.message": json.dumps(envelope["oslo.message"])})
        notification = notifications.decode(body)
        assert notification.payload == envelope["oslo.message"]["payload"]
        if notification.event_type == notifications.HEARTBEAT_TYPE:
            Heartbeat.from_wire(notification.payload)
        else:
            events.EVENT_TYPES[notification.event_type].payload.from_wire(notification.payload)


@pytest.mark.parametrize("event_type", [*events.EVENT_TYPES, notifications.HEARTBEAT_TYPE])
def test_the_envelope_is_read_by_oslo_messagings_own_deserialiser(event_type: str) -> None:
    """A plain notification listener of anybody's must be able to read our events."""
    notification = golden.make_notification(event_type)
    message = deserialise(json.loads(notifications.encode(notification)))
    assert message["event_type"] == event_type
    assert message["payload"] == notification.payload
    assert message["priority"] == notification.severity.upper()
    assert message.keys() == {"message_id", "publisher_id", "event_type", "priority", "payload", "timestamp", "_unique_id"}


def test_publishing_again_keeps_the_message_id_and_makes_a_fresh_unique_id() -> None:
    """An oslo.messaging listener never acknowledges a message whose ``_unique_id`` it has seen."""
    notification = golden.make_notification("action.ended")
    first, second = (deserialise(json.loads(notifications.encode(notification))) for _ in range(2))
    assert first["message_id"] == second["message_id"]
    assert first["_unique_id"] != second["_unique_id"]
