"""What describes notifications is served: each schema, their list, and an AsyncAPI document that is a valid one and complete."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from api_gateway.asyncapi.document import build_document
from compute_agent.contract import events, notifications, versions
from compute_agent.contract.schema_files import ENVELOPE, read_schemas
from tests.contract import golden
from tests.http.application import Application, create_application
from tests.http.described import list_deviations

SPECIFICATION = Path(__file__).parents[2] / "contract" / "asyncapi" / "3.0.0.json"
DOCUMENT = json.loads(json.dumps(build_document()))


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = create_application(tmp_path_factory.mktemp("documents"), fleet=False)
    yield application
    application.close()


@pytest.fixture(scope="module")
def specification() -> Draft7Validator:
    return Draft7Validator(json.loads(SPECIFICATION.read_text()))


def get(application: Application, path: str, status: int = 200) -> Any:
    """The answer's body; the answer is as the OpenAPI document says."""
    answer = application.client.simulate_get(path)
    assert answer.status_code == status, answer.text
    assert list_deviations("GET", path.partition("?")[0], None, status, answer.headers.items(), answer.content) == []
    return answer.json


def list_references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [reference for item in part for reference in list_references(item)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [reference for item in part.values() for reference in list_references(item)]


def resolve(reference: str) -> Any:
    """:raises KeyError: it leads nowhere."""
    target: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        target = target[step]
    return target


def make_validator(schema: dict[str, Any]) -> Draft7Validator:
    """As a tool would that knows AsyncAPI's own kind of schema only."""
    return Draft7Validator({**schema, "components": DOCUMENT["components"]})


def test_each_schema_in_the_list_is_found_behind_its_link(application: Application) -> None:
    listed = get(application, "/v1/schemas")
    assert listed["event_version"] == versions.EVENT_VERSION
    current = {view["name"]: view for view in listed["schemas"] if view["version"] == versions.EVENT_VERSION}
    assert current.keys() == {*events.EVENT_TYPES, notifications.HEARTBEAT_TYPE, ENVELOPE}
    assert (current["agent.cast_refused"]["since"], current["agent.cast_refused"]["severity"]) == ("1.5", "warn")
    assert (current[ENVELOPE]["since"], current[ENVELOPE]["severity"]) == (None, None)
    for view in listed["schemas"]:
        path = view["links"][0]["href"].partition("//")[2].partition("/")[2]
        schema = get(application, f"/{path}")
        assert schema == read_schemas(view["version"])[view["name"]]
        assert schema["$id"] == view["schema_id"]


def test_without_a_version_the_one_that_this_release_speaks_is_meant(application: Application) -> None:
    path = "/v1/schemas/server.panicked"
    assert get(application, path) == get(application, f"{path}?version={versions.EVENT_VERSION}")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/v1/schemas/server.abducted", "GET /v1/schemas lists"),
        ("/v1/schemas/server.panicked?version=99.9", f"there are some of {versions.EVENT_VERSION}"),
        ("/v1/schemas/server.panicked?version=../1.5", "there are some of"),
        ("/v1/schemas/..", "GET /v1/schemas lists"),
    ],
)
def test_what_was_never_published_is_not_found_with_where_to_look(application: Application, path: str, advice: str) -> None:
    answer = application.client.simulate_get(path)
    assert answer.status_code == 404
    assert advice in answer.json["itemNotFound"]["message"]


@pytest.mark.parametrize("path", ["/asyncapi.json?a=b", "/v1/schemas?version=1.5", "/v1/schemas/envelope?a=b"])
def test_parameters_that_there_are_not_are_refused(application: Application, path: str) -> None:
    assert application.client.simulate_get(path).status_code == 400


def test_the_application_serves_the_asyncapi_document(application: Application) -> None:
    assert get(application, "/asyncapi.json") == DOCUMENT


def test_the_document_is_valid_by_asyncapis_own_schema(specification: Draft7Validator) -> None:
    assert [f"{error.json_path}: {error.message}" for error in specification.iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("#/operations/tellEvents", {"action": "shout"}),
        ("#/channels/events/bindings/amqp", {"exchange": {"type": "tropic"}}),
        ("#/channels/events/parameters/severity", {"enum": "info"}),
        ("#/components/schemas/action.ended", {"properties": {"code": {"type": "word"}}}),
        ("#/components/messages/action.ended", {"contentType": 7}),
    ],
)
def test_asyncapis_own_schema_would_find_a_mistake(specification: Draft7Validator, place: str, value: dict[str, Any]) -> None:
    spoiled = json.loads(json.dumps(DOCUMENT))
    target = spoiled
    for step in place.removeprefix("#/").split("/"):
        target = target[step]
    target.update(value)
    assert not specification.is_valid(spoiled)


def test_every_reference_leads_somewhere() -> None:
    for reference in list_references(DOCUMENT):
        assert isinstance(resolve(reference), dict)


def test_the_channels_have_the_names_at_the_broker() -> None:
    channels = DOCUMENT["channels"]
    severities = channels["events"]["parameters"]["severity"]["enum"]
    keys = {channels["events"]["address"].replace("{severity}", severity) for severity in severities}
    assert keys == {queue.routing_key for queue in notifications.RECORDER_QUEUES}
    assert channels["heartbeats"]["address"] == notifications.HEARTBEAT_QUEUE.routing_key
    for channel in channels.values():
        exchange = channel["bindings"]["amqp"]["exchange"]
        assert (exchange["name"], exchange["type"]) == (notifications.EVENTS_EXCHANGE.name, notifications.EVENTS_EXCHANGE.type)


def test_every_type_is_a_message_of_one_channel() -> None:
    channels = DOCUMENT["channels"]
    assert channels["events"]["messages"].keys() == events.EVENT_TYPES.keys()
    assert list(channels["heartbeats"]["messages"]) == [notifications.HEARTBEAT_TYPE]


@pytest.mark.parametrize("event_type", [*events.EVENT_TYPES, notifications.HEARTBEAT_TYPE])
def test_what_is_published_is_the_message_that_the_document_describes(event_type: str) -> None:
    described = DOCUMENT["components"]["messages"][event_type]
    body = json.loads(notifications.encode(golden.make_notification(event_type)))
    assert list(make_validator(described["payload"]).iter_errors(body)) == []
    inner = described["payload"]["properties"]["oslo.message"]["contentSchema"]
    message = json.loads(body["oslo.message"])
    assert list(make_validator(inner).iter_errors(message)) == []
    assert not make_validator(inner).is_valid({**message, "event_type": "server.abducted"})
    assert not make_validator(inner).is_valid({**message, "payload": {}})
