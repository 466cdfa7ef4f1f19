"""The published schemas are what the models say, take what is sent, and stay what they are once a release has carried them."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from compute_agent.contract import events, notifications, schema_files, versions
from compute_agent.contract.notifications import EVENTS_EXCHANGE
from compute_agent.contract.schema_files import ENVELOPE
from compute_agent.contract.topics import HEARTBEAT_ROUTING_KEY, Severity, routing_key
from compute_agent.contract.units import UNIT_KEY
from tests.contract import compatibility, event_schemas, golden

PAGE = Path(__file__).parents[2] / "doc" / "notifications-topic.rst"
CURRENT = schema_files.read_schemas(versions.EVENT_VERSION)
UNIT_OF_ENDING = {"mib": "MiB", "gib": "GiB", "bytes": "B", "octets": "B", "watts": "W", "rate": "B/s"}


def find_invalid(name: str, version: str, value: Any) -> str | None:
    """Why a schema does not take a value; None when it does."""
    schema = schema_files.read_schemas(version)[name]
    error = next(Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).iter_errors(value), None)
    return None if error is None else f"{name} {version}: {error.json_path}: {error.message}"


def find_invalid_message(sample: dict[str, Any]) -> str | None:
    """The same for a whole message, with its envelope and what is in that."""
    message = sample["oslo.message"]
    version = message["payload"].get("version", message["payload"].get("event_version"))
    body = {**sample, "oslo.message": json.dumps(message)}
    return (
        find_invalid(ENVELOPE, version, body)
        or next((error.message for error in make_message_validator(version).iter_errors(message)), None)
        or find_invalid(message["event_type"], version, message["payload"])
    )


def make_message_validator(version: str) -> Draft202012Validator:
    """Of what is inside an envelope: no validator looks into text by itself."""
    return Draft202012Validator(schema_files.read_schemas(version)[ENVELOPE]["$defs"]["Message"])


def list_properties(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every key of a schema, of its definitions too."""
    objects = [schema, *schema.get("$defs", {}).values()]
    return [item for part in objects for item in part.get("properties", {}).items()]


def test_the_schemas_of_this_version_are_what_the_models_say() -> None:
    written = {name: event_schemas.format_schema(schema) for name, schema in event_schemas.build_schemas().items()}
    recorded = event_schemas.read_texts(versions.EVENT_VERSION)
    differing = sorted(name for name in recorded.keys() | written.keys() if recorded.get(name) != written.get(name))
    assert not differing, (
        f"the published schemas of {', '.join(differing)} are not what the models say. For anything but better words add an event version, "
        f"unless none of {versions.EVENT_VERSION} was released (then --unreleased), and run: python -m tests.contract.regenerate"
    )


def test_every_type_of_event_has_a_schema_and_the_envelope_has_one() -> None:
    assert CURRENT.keys() == {*events.EVENT_TYPES, notifications.HEARTBEAT_TYPE, ENVELOPE}


def test_every_event_version_that_a_release_speaks_has_its_schemas() -> None:
    assert {release.event for release in versions.RELEASES.values()} <= set(schema_files.list_schema_versions())


def test_every_version_has_the_types_that_its_history_says() -> None:
    numbers = [row.number for row in versions.EVENT_HISTORY]
    for version in schema_files.list_schema_versions():
        rows = versions.EVENT_HISTORY[: numbers.index(version) + 1]
        assert schema_files.read_schemas(version).keys() == {ENVELOPE}.union(*(row.types for row in rows))


def test_a_version_without_schemas_is_none() -> None:
    with pytest.raises(KeyError):
        schema_files.read_schemas("0.1")


@pytest.mark.parametrize("version", schema_files.list_schema_versions())
def test_every_schema_is_a_valid_one_and_says_what_it_is(version: str) -> None:
    for name, schema in schema_files.read_schemas(version).items():
        assert validator_for(schema) is Draft202012Validator
        Draft202012Validator.check_schema(schema)
        assert (schema["$id"], schema["title"]) == (schema_files.build_schema_id(name, version), name)
        assert schema["description"]


@pytest.mark.parametrize("release", sorted(versions.RELEASES))
def test_every_golden_sample_of_an_event_fits_its_schema(release: str) -> None:
    samples = {name: json.loads(text) for name, text in golden.read_samples(release).items() if name.startswith("events/")}
    assert samples
    assert {name: found for name, sample in samples.items() if (found := find_invalid_message(sample)) is not None} == {}


def test_the_page_on_the_topic_shows_a_whole_message_as_it_is_sent() -> None:
    page = PAGE.read_text()
    shown = json.loads(next(line for line in page.splitlines() if line.startswith('    {"oslo.version"')))
    message = json.loads(shown["oslo.message"])
    assert find_invalid_message({**shown, "oslo.message": message}) is None
    assert message["payload"].keys() == golden.make_payload(message["event_type"]).keys()
    for name in (EVENTS_EXCHANGE.name, *map(routing_key, Severity), HEARTBEAT_ROUTING_KEY, *message):
        assert f"``{name}``" in page


def test_what_is_published_fits_the_envelopes_schema() -> None:
    body = json.loads(notifications.encode(golden.make_notification("action.ended")))
    message = json.loads(body["oslo.message"])
    assert find_invalid(ENVELOPE, versions.EVENT_VERSION, body) is None
    assert message.keys() == CURRENT[ENVELOPE]["$defs"]["Message"]["properties"].keys()
    assert list(make_message_validator(versions.EVENT_VERSION).iter_errors(message)) == []
    for broken in ({**message, "priority": "LOUD"}, {**message, "payload": "text"}, {**message, "message_id": "a" * 256}):
        assert list(make_message_validator(versions.EVENT_VERSION).iter_errors(broken))


def test_a_payload_that_lacks_a_key_or_has_one_of_another_kind_does_not_fit() -> None:
    payload = golden.make_payload("action.ended")
    for spoiled in (
        {key: value for key, value in payload.items() if key != "code"},
        {**payload, "sequence": "17"},
        {**payload, "ending": "postponed"},
        {**payload, "occurred_at": "yesterday"},
    ):
        assert find_invalid("action.ended", versions.EVENT_VERSION, spoiled) is not None


def test_what_a_later_minor_version_adds_fits_the_schema_of_today() -> None:
    payload = {**golden.make_payload("action.ended"), "code": "eaten_by_a_grue", "kind": "feed_the_cat", "surprise": {"of": "a later one"}}
    assert find_invalid("action.ended", versions.EVENT_VERSION, payload) is None
    heartbeat = golden.HEARTBEAT.to_wire()
    heartbeat["inventory"]["servers"][0]["surprise"] = 1
    assert find_invalid("agent.heartbeat", versions.EVENT_VERSION, heartbeat) is None


def test_every_enumeration_is_said_to_be_closed_or_open() -> None:
    definitions = {name: part for schema in CURRENT.values() for name, part in schema.get("$defs", {}).items()}
    closed = {name for name, part in definitions.items() if "enum" in part}
    opened = {name for name, part in definitions.items() if "anyOf" in part}
    assert closed == {words.__name__ for words in event_schemas.CLOSED_WORDS}
    assert opened == {words.__name__ for words in event_schemas.OPEN_WORDS}


def test_every_key_of_an_events_payload_says_what_it_means() -> None:
    for event_type in events.EVENT_TYPES:
        for key, schema in CURRENT[event_type]["properties"].items():
            assert "description" in schema or "$ref" in json.dumps(schema), f"{event_type}: name {key} in the docstring of its model"


def test_a_number_whose_name_says_its_unit_has_that_unit() -> None:
    for schema in CURRENT.values():
        for key, part in list_properties(schema):
            unit = UNIT_OF_ENDING.get(key.rpartition("_")[2])
            if unit is not None:
                assert f'"{UNIT_KEY}": "{unit}"' in json.dumps(part, ensure_ascii=False), key


def test_no_minor_version_breaks_what_its_predecessor_published() -> None:
    for before, after in itertools.pairwise(schema_files.list_schema_versions()):
        if before.split(".")[0] == after.split(".")[0]:
            assert compatibility.list_breaks(schema_files.read_schemas(before), schema_files.read_schemas(after)) == [], (
                f"{before} to {after}"
            )
