"""Each message of the contract with something wrong anywhere in it: read, or refused with the one error that readers expect."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from compute_agent.contract import notifications
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.models import ActionRequest
from compute_agent.contract.notifications import UnreadableNotification
from compute_agent.contract.wire import WireModel
from tests.contract import golden
from tests.contract.schemas import list_models
from tests.fuzzing import ANYTHING, count_examples, spoil_bytes, spoil_json

_RPC = (golden.REQUEST, golden.EVENT_RANGE, golden.PING_REPLY, golden.DIAGNOSTICS_REPLY, golden.BLACK_BOX_CHUNK, golden.HEARTBEAT)
SAMPLES: dict[str, tuple[type[WireModel], dict[str, Any]]] = {
    **{type(sample).__name__: (type(sample), sample.to_wire()) for sample in _RPC},
    **{event_type: (EVENT_TYPES[event_type].payload, golden.make_payload(event_type)) for event_type in EVENT_TYPES},
}
_ENCODED = [notifications.encode(golden.make_notification(event_type)) for event_type in (*EVENT_TYPES, notifications.HEARTBEAT_TYPE)]


@settings(max_examples=count_examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_spoiled_message_is_read_or_refused_and_what_was_read_can_be_sent_on(data: st.DataObject) -> None:
    model, sample = SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))]
    try:
        read = model.from_wire(data.draw(spoil_json(sample)))
    except ValidationError:
        return
    json.dumps(read.to_wire())
    if isinstance(read, ActionRequest):
        assert len(read.fingerprint()) == 64


@settings(max_examples=count_examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(ANYTHING)
def test_no_model_takes_anything_else_than_an_object_or_raises_anything_else(value: Any) -> None:
    for model in list_models():
        with pytest.raises(ValidationError):
            model.from_wire(value if not isinstance(value, dict) else [value])


@settings(max_examples=count_examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(_ENCODED).flatmap(spoil_bytes))
def test_spoiled_bytes_of_a_notification_are_read_or_unreadable(body: bytes) -> None:
    try:
        notification = notifications.decode(body)
    except UnreadableNotification:
        return
    assert isinstance(notification.payload, dict)
    assert all(isinstance(text, str) for text in (notification.message_id, notification.event_type, notification.severity))


@settings(max_examples=count_examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_spoiled_envelope_is_read_or_unreadable(data: st.DataObject) -> None:
    envelope = json.loads(data.draw(st.sampled_from(_ENCODED)))
    message = data.draw(spoil_json(json.loads(envelope["oslo.message"])))
    spoiled = data.draw(st.just({**envelope, "oslo.message": json.dumps(message)}) | spoil_json(envelope))
    try:
        notifications.decode(json.dumps(spoiled))
    except UnreadableNotification:
        pass
