"""Strict when sending, tolerant when receiving, and nothing that comes in can do worse than be refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError, create_model

from compute_agent.contract import notifications
from compute_agent.contract.models import ActionRequest, EventRange, Heartbeat, PingReply, Server
from compute_agent.contract.notifications import Notification, UnreadableNotification
from compute_agent.contract.wire import WireModel
from tests.contract import golden, schemas

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)
SENT: list[WireModel] = [golden.REQUEST, golden.EVENT_RANGE, golden.PING_REPLY, golden.SERVER, golden.HEARTBEAT]


def read_sample_event(**changes: Any) -> Notification:
    """The sample ``action.ended`` as it comes in, with some keys of the message changed."""
    envelope = json.loads(notifications.encode(golden.make_notification("action.ended")))
    message = {**json.loads(envelope["oslo.message"]), **changes}
    return notifications.decode(json.dumps({**envelope, "oslo.message": json.dumps(message)}))


@pytest.mark.parametrize("model", SENT, ids=lambda model: type(model).__name__)
def test_what_is_sent_must_not_hold_unknown_keys(model: WireModel) -> None:
    with pytest.raises(ValidationError):
        type(model)(**model.to_wire(), surprise=1)


@pytest.mark.parametrize("model", SENT, ids=lambda model: type(model).__name__)
def test_unknown_keys_of_a_newer_release_are_ignored_when_receiving(model: WireModel) -> None:
    body = {**model.to_wire(), "surprise": {"of": "a newer release"}}
    assert type(model).from_wire(body) == model


def test_unknown_keys_are_ignored_at_every_depth() -> None:
    body = golden.HEARTBEAT.to_wire()
    body["inventory"]["surprise"] = body["capabilities"]["surprise"] = body["inventory"]["servers"][0]["surprise"] = 1
    assert Heartbeat.from_wire(body) == golden.HEARTBEAT


ADDED_IN_1_1 = {"description", "flavor", "tags", "foreign_owner"}


def test_a_server_of_an_agent_that_does_not_know_the_newer_keys_is_read_without_them() -> None:
    body = {key: value for key, value in golden.SERVER.to_wire().items() if key not in ADDED_IN_1_1}
    server = Server.from_wire(body)
    assert (server.description, server.flavor, server.tags, server.foreign_owner) == (None, None, (), None)
    assert server.name == golden.SERVER.name


def test_a_server_with_the_newer_keys_is_read_by_a_release_that_does_not_know_them() -> None:
    kept: dict[str, Any] = {name: (field.annotation, field) for name, field in Server.model_fields.items() if name not in ADDED_IN_1_1}
    older = create_model("OlderServer", __base__=WireModel, **kept)
    assert older.from_wire(golden.SERVER.to_wire()).to_wire().items() <= golden.SERVER.to_wire().items()


def test_what_a_guests_metadata_says_is_cut_and_never_stops_a_heartbeat() -> None:
    wild = {"description": "a\x00b\n\x1b[31m" + "c" * 300, "tags": ["a/b", "c,d", "", "x" * 61, " ok\n", "ok", *map(str, range(100))]}
    server = Server.from_wire({**golden.SERVER.to_wire(), **wild})
    assert server.description == ("a b [31m" + "c" * 300)[:255]
    assert len(server.tags) == 50
    assert all(tag.isdecimal() for tag in server.tags)
    assert Server.from_wire({**golden.SERVER.to_wire(), "tags": wild["tags"][:6]}).tags == ("ok",)


@pytest.mark.parametrize("model", SENT, ids=lambda model: type(model).__name__)
def test_what_was_sent_is_what_is_received(model: WireModel) -> None:
    assert type(model).from_wire(json.loads(json.dumps(model.to_wire()))) == model


def test_a_model_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(ValidationError):
        golden.REQUEST.force = False  # type: ignore[misc]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        ActionRequest.from_wire({**golden.REQUEST.to_wire(), "deadline": "2026-03-01T12:30:00"})


@pytest.mark.parametrize("host", ["", "a b", "../x", "host/1", "a\n", "*", "#", "-a", "a" * 256])
def test_a_host_name_that_could_not_be_part_of_a_queue_name_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        ActionRequest.from_wire({**golden.REQUEST.to_wire(), "host": host})


@pytest.mark.parametrize("action_id", ["", "req-1", golden.SERVER_ID, golden.ACTION_ID.upper(), golden.ACTION_ID + "\n"])
def test_an_action_id_has_one_form_only(action_id: str) -> None:
    with pytest.raises(ValidationError):
        ActionRequest.from_wire({**golden.REQUEST.to_wire(), "id": action_id})


def test_a_range_of_events_begins_at_one() -> None:
    with pytest.raises(ValidationError):
        EventRange.from_wire({"epoch": golden.JOURNAL_ID, "first": 0, "last": 3})


def test_every_cast_of_one_action_has_the_same_fingerprint() -> None:
    assert golden.REQUEST.model_copy(update={"sent_at": golden.LATER}).fingerprint() == golden.REQUEST.fingerprint()


@pytest.mark.parametrize("field", sorted(set(ActionRequest.model_fields) - {"sent_at", "kind"}))
def test_other_content_under_one_id_has_another_fingerprint(field: str) -> None:
    others: dict[str, Any] = {"force": False, "server_generation": 3, "deadline": golden.MOMENT}
    other = golden.REQUEST.model_copy(update={field: others.get(field, "another")})
    assert other.fingerprint() != golden.REQUEST.fingerprint()


def test_a_key_that_a_later_release_brings_makes_no_other_action_of_one_that_was_journalled_before_it() -> None:
    class LaterRequest(ActionRequest):
        """With a key more."""

        more: str | None = None

    journalled = LaterRequest.from_wire(golden.REQUEST.to_wire())
    assert journalled.fingerprint() == golden.REQUEST.fingerprint()
    assert journalled.model_copy(update={"more": "said"}).fingerprint() != golden.REQUEST.fingerprint()


def test_an_event_type_of_a_newer_release_comes_through_as_it_came() -> None:
    notification = read_sample_event(event_type="server.abducted", payload={"version": "1.7", "by": "saucer"})
    assert (notification.event_type, notification.payload) == ("server.abducted", {"version": "1.7", "by": "saucer"})


def test_words_of_a_newer_release_come_through_as_they_came() -> None:
    payload = {**golden.make_payload("action.ended"), "code": "eaten_by_a_grue", "ending": "postponed"}
    assert read_sample_event(payload=payload, priority="CRITICAL").payload == payload
    assert read_sample_event(priority="CRITICAL").severity == "critical"


def test_unknown_keys_of_the_envelope_and_the_message_are_ignored() -> None:
    envelope = json.loads(notifications.encode(golden.make_notification("action.ended")))
    message = {**json.loads(envelope["oslo.message"]), "_context_domain": "x", "metadata": {}}
    body = json.dumps({**envelope, "oslo.more": 1, "oslo.message": json.dumps(message)})
    assert notifications.decode(body) == golden.make_notification("action.ended")


@pytest.mark.parametrize("key", ["message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"])
@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": 1}, True])
def test_a_message_with_a_key_of_another_type_is_unreadable(key: str, value: Any) -> None:
    if key == "payload" and isinstance(value, dict):
        return
    with pytest.raises(UnreadableNotification):
        read_sample_event(**{key: value})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b'{"oslo.version": "2.0"}',
        b'{"oslo.message": {}}',
        b'{"oslo.message": "[]"}',
        b'{"oslo.message": "{"}',
        b"[" * 100_000,
        b'{"oslo.message": "' + b"[" * 100_000 + b'"}',
        b'{"oslo.message": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_envelope_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableNotification):
        notifications.decode(body)


@pytest.mark.parametrize(
    "payload",
    [
        '{"x": "\\ud800"}',
        '{"x": ' + "[" * 300 + "]" * 300 + "}",
        '{"x": NaN, "y": -Infinity, "z": 1e999}',
        '{"x": 123456789012345678901234567890, "y": 0.1, "z": -0.0}',
        '{"x": 1, "x": 2}',
    ],
    ids=["half of a surrogate pair", "300 levels", "no numbers", "large and small numbers", "a key twice"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_payload_is_what_json_makes_of_it(payload: str, encoding: str) -> None:
    message = notifications.encode(golden.make_notification("action.ended"))
    inner = json.loads(json.loads(message)["oslo.message"])
    body = json.dumps(inner | {"payload": {}}).replace('"payload": {}', f'"payload": {payload}')
    read = notifications.decode(json.dumps({"oslo.version": "2.0", "oslo.message": body}).encode(encoding))
    assert repr(read.payload) == repr(json.loads(payload))


@given(st.binary() | st.text())
def test_decoding_any_bytes_or_text_raises_nothing_but_unreadable(body: bytes | str) -> None:
    try:
        notifications.decode(body)
    except UnreadableNotification:
        pass


@given(JSON)
def test_decoding_any_json_raises_nothing_but_unreadable(value: Any) -> None:
    for envelope in (value, {"oslo.message": value}, {"oslo.version": "2.0", "oslo.message": json.dumps(value)}):
        try:
            notifications.decode(json.dumps(envelope))
        except UnreadableNotification:
            pass


@given(st.dictionaries(st.sampled_from(["message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"]), JSON))
def test_a_message_with_any_values_is_read_as_text_and_an_object_or_refused(changes: dict[str, Any]) -> None:
    try:
        notification = read_sample_event(**changes)
    except UnreadableNotification:
        return
    assert all(isinstance(text, str) for text in (notification.message_id, notification.event_type, notification.severity))
    assert isinstance(notification.payload, dict)


@pytest.mark.parametrize("key", ["message_id", "publisher_id", "event_type"])
@pytest.mark.parametrize(
    "name", ["a" * 256, "two\nlines", "a\x00", "\x1b[2J", "\u202egnp", "a\u2028b", "\ud800"], ids=lambda name: ascii(name[:6])
)
def test_names_that_would_fill_a_log_or_fit_no_column_are_unreadable(key: str, name: str) -> None:
    with pytest.raises(UnreadableNotification) as refused:
        read_sample_event(**{key: name})
    assert name not in str(refused.value)


def test_names_of_255_printable_characters_are_read() -> None:
    name = "ü b" * 85
    notification = read_sample_event(message_id=name, publisher_id=name, event_type=name)
    assert (notification.message_id, notification.publisher_id, notification.event_type) == (name, name, name)


NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=255)


@given(NAMES, NAMES, st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_what_is_encoded_is_what_is_decoded(message_id: str, event_type: str, payload: dict[str, Any]) -> None:
    notification = Notification(message_id, event_type, "compute_agent.x", "info", "2026-03-01 12:30:00.250000", payload)
    assert notifications.decode(notifications.encode(notification)) == notification


@given(JSON)
def test_no_model_raises_anything_but_its_validation_error(value: Any) -> None:
    for model in schemas.list_models():
        try:
            model.from_wire(value)
        except ValidationError:
            pass


@given(st.sampled_from([ActionRequest, EventRange, PingReply, Server, Heartbeat]), st.data())
def test_a_model_with_one_wrong_value_is_read_or_refused_with_its_validation_error(model: type[WireModel], data: st.DataObject) -> None:
    body = next(sample for sample in SENT if type(sample) is model).to_wire()
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JSON)
    try:
        model.from_wire(body)
    except ValidationError:
        pass
