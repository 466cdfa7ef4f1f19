"""The published schemas of notifications, as the models of today say them: JSON Schema 2020-12, one per type, and one of the envelope.

``regenerate.py`` writes them to ``compute_agent/contract/event-schemas/VERSION``, from where they are served; those of versions that a
release carried stay there. A reader must take what a later minor version adds, so its schema does: unknown keys are allowed everywhere,
and where words may be added any other word fits as well.
"""

import json
import re
from enum import StrEnum
from functools import cache
from typing import Any

from compute_agent.contract import diagnostics, errors, events, models, notifications, topics, versions
from compute_agent.contract.schema_files import ENVELOPE, SCHEMAS, build_schema_id
from compute_agent.contract.wire import WireModel
from tests.contract.schemas import list_models

Schema = dict[str, Any]

CLOSED_WORDS: tuple[type[StrEnum], ...] = (errors.Ending, models.DecidedBy, models.PowerState)
"""No minor version adds a word to these; to all others it may."""
OPEN_WORDS: tuple[type[StrEnum], ...] = (
    errors.Code,
    models.ActionKind,
    models.Observation,
    models.Departure,
    diagnostics.Health,
    diagnostics.SensorKind,
    events.WatchdogResult,
)
_PROSE_OF_COMMON_KEYS = {
    "version": "The event version of this payload.",
    "host": "The host that it is about.",
    "occurred_at": "When it happened, by the clock of the host, or of the gateway for what that tells.",
    "server": "The server that it is about; null only for events about a host.",
    "action_id": "The action's id; it is also that of the request which asked for it.",
    "project": "The project that it belongs to.",
    "user": "The user who asked for it, or whose it is.",
    "reason": "A sentence for people, or the platform's own word.",
    "global_request_id": "The id that the caller's own service gave to what it is doing, where it sent one.",
    "expiry_action": "What is done to the server when the watchdog fires.",
    "observed_late": "It was found afterwards, from the server's state.",
    "sent_at": "By the clock of the host.",
}
"""Said of these keys where the docstring of their model does not name them."""


def build_schemas() -> dict[str, Schema]:
    """By event type, and by ``ENVELOPE``; of the event version that this code speaks."""
    payloads: dict[str, type[WireModel]] = {event_type: row.payload for event_type, row in events.EVENT_TYPES.items()}
    payloads[notifications.HEARTBEAT_TYPE] = models.Heartbeat
    return {event_type: _build_payload_schema(event_type, model) for event_type, model in payloads.items()} | {
        ENVELOPE: _build_envelope_schema()
    }


def format_schema(schema: Schema) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def read_texts(version: str) -> dict[str, str]:
    """Name -> text of the recorded schemas of an event version."""
    return {path.name.removesuffix(".json"): path.read_text() for path in sorted((SCHEMAS / version).glob("*.json"))}


def describe_model(model: type[WireModel]) -> Schema:
    """The schema of a payload, as it is published, without its name."""
    classes = {known.__name__: known for known in list_models()}
    classes[model.__name__] = model
    generated = _generate(model)
    definitions = {name: _describe_definition(name, part, classes) for name, part in generated.get("$defs", {}).items()}
    described = _describe_object(generated, model)
    return {**described, "$defs": definitions} if definitions else described


@cache
def _generate(model: type[WireModel]) -> Schema:
    """Takes pydantic a while; several types of event have the same payload."""
    return model.model_json_schema(mode="serialization")


def _build_payload_schema(event_type: str, model: type[WireModel]) -> Schema:
    named: Schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": build_schema_id(event_type, versions.EVENT_VERSION),
        "title": event_type,
    }
    if event_type in events.EVENT_TYPES:
        named["x-severity"] = events.EVENT_TYPES[event_type].severity.value
    return named | describe_model(model)


def _build_envelope_schema() -> Schema:
    name: Schema = {"type": "string", "minLength": 1, "maxLength": 255}
    message = {
        "type": "object",
        "description": "What happened, and who says so.",
        "properties": {
            "message_id": {**name, "description": "The event's identity: published again it has the same. Sort out repeated ones by it."},
            "publisher_id": {**name, "description": "Who published it, as `SERVICE.HOST`; a name, no proof."},
            "event_type": {**name, "description": "Says which schema the payload has, together with the version in it."},
            "priority": {"enum": [severity.value.upper() for severity in topics.Severity], "description": "The severity."},
            "payload": {"type": "object", "description": "As the schema of the event type and of the payload's own `version` says."},
            "timestamp": {
                "type": "string",
                "pattern": r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{6}$",
                "description": "When it happened, in UTC and without a zone; the payload's `occurred_at` is the same with one.",
            },
            "_unique_id": {"type": "string", "description": "Fresh for each attempt to publish: of no use to tell repeated ones."},
        },
        "required": ["message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"],
        "additionalProperties": True,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": build_schema_id(ENVELOPE, versions.EVENT_VERSION),
        "title": ENVELOPE,
        "description": "The body of each message: oslo.messaging's notification envelope. The message in it is JSON text inside JSON.",
        "type": "object",
        "properties": {
            "oslo.version": {"const": json.loads(notifications.encode(_ANY))["oslo.version"]},
            "oslo.message": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"$ref": "#/$defs/Message"}},
        },
        "required": ["oslo.version", "oslo.message"],
        "additionalProperties": True,
        "$defs": {"Message": message},
    }


_ANY = notifications.Notification("", "", "", "info", "", {})


def _describe_definition(name: str, part: Schema, classes: dict[str, type[WireModel]]) -> Schema:
    if "enum" not in part:
        return _describe_object(part, classes[name])
    words = next(words for words in (*CLOSED_WORDS, *OPEN_WORDS) if words.__name__ == name)
    known: Schema = {"enum": part["enum"]}
    if words is errors.Code:
        known["x-meanings"] = {code.value: f"{meaning.ending}: {meaning.sentence}" for code, meaning in errors.CODES.items()}
    description = _make_readable(part["description"])
    if words in CLOSED_WORDS:
        return {"description": description, "type": "string", **known}
    of_later = {"description": "A word of a later minor version."}
    return {"description": f"{description} A later minor version may add words.", "type": "string", "anyOf": [known, of_later]}


def _describe_object(part: Schema, model: type[WireModel]) -> Schema:
    sentences = _list_sentences(model)
    properties = {}
    for name, schema in part["properties"].items():
        told = " ".join(sentence for sentence in sentences if f"`{name}`" in sentence) or _PROSE_OF_COMMON_KEYS.get(name, "")
        properties[name] = ({"description": told} if told else {}) | _simplify(schema)
    described = {"description": _make_readable(part["description"]), "type": "object", "properties": properties}
    return described | {"required": part.get("required", []), "additionalProperties": True}


def _simplify(schema: Any) -> Any:
    """Without titles, which only repeat the names, and with a tuple of equal parts as what it is: a list of fixed length."""
    if isinstance(schema, list):
        return [_simplify(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _simplify(value) for key, value in schema.items() if key != "title"}
    parts = plain.pop("prefixItems", None)
    if parts is not None:
        if any(part != parts[0] for part in parts):
            raise ValueError(f"a tuple of different parts cannot be described for readers of older schema drafts: {schema}")
        plain["items"] = parts[0]
    return plain


def _list_sentences(model: type[WireModel]) -> list[str]:
    """Of the docstrings of a model and of the models that it is made of."""
    docstrings = [kind.__doc__ or "" for kind in model.__mro__ if issubclass(kind, WireModel) and kind is not WireModel]
    return [sentence for text in docstrings for sentence in re.split(r"(?<=[.])\s+(?=[A-Z`])", _make_readable(text))]


def _make_readable(docstring: str) -> str:
    """One paragraph of Markdown, in the words of JSON."""
    text = re.sub(r":\w+:`(\w+)`", r"\1", " ".join(docstring.split()))
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))
