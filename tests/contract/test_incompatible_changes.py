"""Changes that would break consumers of notifications, made on purpose: each is caught, with a new event version and without one."""

import copy
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import create_model

from compute_agent.contract import errors, events, versions
from compute_agent.contract.errors import Code, Ending, Meaning
from compute_agent.contract.notifications import Severity
from compute_agent.contract.schema_files import read_schemas
from compute_agent.contract.units import Unit
from compute_agent.contract.wire import WireModel
from tests.contract import compatibility, event_schemas, schemas

Schema = dict[str, Any]
Change = Callable[[Schema], object]


def rebuild(model: type[WireModel], *, without: str = "", **fields: Any) -> type[WireModel]:
    """The model with a field less, or others."""
    kept: dict[str, Any] = {name: (field.annotation, field) for name, field in model.model_fields.items() if name != without}
    return create_model(model.__name__, __base__=WireModel, __doc__=model.__doc__, **{**kept, **fields})


def list_breaks_of(event_type: str, changed: type[WireModel]) -> list[str]:
    """What is wrong with it as the next minor version."""
    published = read_schemas(versions.EVENT_VERSION)
    after = {**published, event_type: {**published[event_type], **event_schemas.describe_model(changed)}}
    return compatibility.list_breaks(published, after)


def is_seen_without_a_version(changed: type[WireModel]) -> bool:
    """Whether it is caught as long as nobody adds an event version."""
    hashes = schemas.hash_models()
    hashes["event"][changed.__name__] = schemas.hash_schema(changed)
    difference = schemas.find_difference(schemas.read_schemas(), hashes)
    return difference is not None and changed.__name__ in difference


def test_a_renamed_field_is_caught() -> None:
    field = events.ActionEnded.model_fields["signalled_at"]
    changed = rebuild(events.ActionEnded, without="signalled_at", sent_at=(field.annotation, field))
    assert is_seen_without_a_version(changed)
    assert list_breaks_of("action.ended", changed) == ["action.ended.signalled_at is gone"]


def test_a_removed_event_key_is_caught() -> None:
    changed = rebuild(events.ServerBlackBox, without="parts")
    assert is_seen_without_a_version(changed)
    assert list_breaks_of("server.black_box", changed) == ["server.black_box.parts is gone"]


def test_a_changed_enum_word_is_caught() -> None:
    published = read_schemas(versions.EVENT_VERSION)
    for event_type, name, word in (("server.watchdog.outcome", "WatchdogResult", "dumped"), ("action.ended", "Ending", "expired")):
        changed = copy.deepcopy(published)
        definition = changed[event_type]["$defs"][name]
        words = (definition if "enum" in definition else definition["anyOf"][0])["enum"]
        words[words.index(word)] = "over"
        breaks = compatibility.list_breaks(published, changed)
        assert f"the word {word!r} is gone" in breaks[0]
        assert changed[event_type] != event_schemas.build_schemas()[event_type]  # what a model with that word would differ by


def test_a_word_more_is_caught_where_none_may_come() -> None:
    published = read_schemas(versions.EVENT_VERSION)
    changed = copy.deepcopy(published)
    changed["action.ended"]["$defs"]["Ending"]["enum"].append("postponed")
    assert compatibility.list_breaks(published, changed) == ["action.ended.ending: the word 'postponed' came, where none may"]


def test_a_changed_unit_under_the_same_name_is_caught() -> None:
    changed = rebuild(events.HostDumpTaken, duration=(Annotated[float, Unit("ms")], ...))
    assert is_seen_without_a_version(changed)
    assert list_breaks_of("server.host_dump", changed) == ["server.host_dump.duration: x-unit 's' became 'ms'"]


@pytest.mark.parametrize(
    "meaning",
    [
        Meaning(Ending.UNKNOWN, errors.CODES[Code.NO_SPACE].sentence),
        Meaning(Ending.FAILED, "The journal is full; nothing was sent."),
    ],
    ids=["another ending", "another sentence"],
)
def test_a_reused_code_is_caught(monkeypatch: pytest.MonkeyPatch, meaning: Meaning) -> None:
    published = read_schemas(versions.EVENT_VERSION)
    monkeypatch.setitem(errors.CODES, Code.NO_SPACE, meaning)
    changed = event_schemas.build_schemas()
    assert changed != published
    breaks = compatibility.list_breaks(published, changed)
    assert breaks
    assert all("'no_space' meant" in line and "take another" in line for line in breaks)


def test_better_words_for_a_code_are_allowed_when_somebody_has_looked_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    published = read_schemas(versions.EVENT_VERSION)
    monkeypatch.setattr(compatibility, "REWORDED", frozenset({"no_space"}))
    monkeypatch.setitem(errors.CODES, Code.NO_SPACE, Meaning(Ending.FAILED, "There is no room for the server's memory."))
    assert compatibility.list_breaks(published, event_schemas.build_schemas()) == []
    monkeypatch.setitem(errors.CODES, Code.NO_SPACE, Meaning(Ending.UNKNOWN, "There is no room for the server's memory."))
    assert compatibility.list_breaks(published, event_schemas.build_schemas())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda schema: schema["required"].append("user"), "user must be there"),
        (lambda schema: schema["required"].remove("code"), "code may be missing"),
        (lambda schema: schema["properties"]["sequence"].update(type="string"), "type 'integer' became 'string'"),
        (lambda schema: schema["properties"]["user"]["anyOf"].pop(), "other kinds"),
        (lambda schema: schema["properties"]["action_id"].pop("pattern"), "pattern"),
        (lambda schema: schema.update({"x-severity": Severity.ERROR.value}), "x-severity"),
        (lambda schema: schema["$defs"]["Code"].pop("anyOf"), "which words"),
        (lambda schema: schema.update(additionalProperties=False), "other keys"),
    ],
    ids=["needed", "missing", "retyped", "never null", "any text", "another routing key", "any word", "closed"],
)
def test_what_else_readers_rely_on_is_caught(change: Change, told: str) -> None:
    published = read_schemas(versions.EVENT_VERSION)
    changed = copy.deepcopy(published)
    change(changed["action.ended"])
    assert told in " ".join(compatibility.list_breaks(published, changed))


def test_a_type_that_is_told_no_more_is_caught() -> None:
    published = read_schemas(versions.EVENT_VERSION)
    changed = {name: schema for name, schema in published.items() if name != "server.paused"}
    assert compatibility.list_breaks(published, changed) == ["server.paused is gone"]


def test_a_minor_version_may_add_keys_words_and_types() -> None:
    published = read_schemas(versions.EVENT_VERSION)
    changed = copy.deepcopy(published)
    changed["server.abducted"] = changed["server.paused"]
    changed["action.ended"]["properties"]["by"] = {"type": "string"}
    changed["action.ended"]["$defs"]["Code"]["anyOf"][0]["enum"].append("eaten_by_a_grue")
    changed["action.ended"]["description"] = "In better words."
    assert compatibility.list_breaks(published, changed) == []
