"""Changes that would break readers of notifications or peers of another release, made on purpose; each is caught, whether or not somebody
adds a version for it. These are the eight that were promised:

=============================================  ===========================================================================================
a renamed field                                ``test_a_renamed_field_is_caught``
a new required argument                        ``test_a_new_required_argument_of_a_method_is_caught``,
                                               ``test_a_new_required_argument_of_an_action_is_caught``
a changed enum word                            ``test_a_changed_enum_word_is_caught``
a removed event key                            ``test_a_removed_event_key_is_caught``
a changed unit under the same name             ``test_a_changed_unit_under_the_same_name_is_caught``
a reused code                                  ``test_a_reused_code_is_caught``
a raised minimum version                       ``test_a_raised_minimum_version_is_caught``
changed queue arguments                        ``test_changed_queue_arguments_are_caught``
=============================================  ===========================================================================================

The last test of each kind has others. ``interface.py`` and ``compatibility.py`` say what is compared, the files under ``samples`` and
``event-schemas`` what with.
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pytest
from kombu import Queue
from pydantic import ValidationError, create_model

from compute_agent.contract import errors, events, models, notifications, transport, versions
from compute_agent.contract.errors import Code, Ending, Meaning
from compute_agent.contract.schema_files import read_schemas
from compute_agent.contract.topics import Severity
from compute_agent.contract.units import Unit
from compute_agent.contract.wire import WireModel
from compute_agent.endpoint import Endpoint
from tests.contract import compatibility, event_schemas, golden, interface, schemas
from tests.contract.recorded_rpc import record_rpc

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


def is_seen_without_a_version(changed: type[WireModel], contract: str = "event") -> bool:
    """Whether it is caught as long as nobody adds a version."""
    hashes = schemas.hash_models()
    hashes[contract][changed.__name__] = schemas.hash_schema(changed)
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


def read_interface(name: str, release: str = versions.RELEASE) -> Schema:
    """What a release recorded of its interface, in the words of ``interface.py``."""
    described: Schema = golden.read_sample(release, f"interface/{name}.json")
    return described


def list_breaks_of_models(**changed: type[WireModel]) -> list[str]:
    """What is wrong with them as the next minor RPC version."""
    after = interface.describe_models() | {name: schemas.drop_prose(model.model_json_schema()) for name, model in changed.items()}
    return interface.list_model_breaks(read_interface("models"), after)


def test_a_new_required_argument_of_a_method_is_caught() -> None:
    class Demanding(Endpoint):
        def trigger_crash_dump(self, ctxt: Mapping[str, Any], action: Any, *, urgency: Any) -> None:  # type: ignore[override]
            raise NotImplementedError

        def get_diagnostics(self, ctxt: Mapping[str, Any], server: Any, history: Any) -> dict[str, Any]:  # type: ignore[override]
            raise NotImplementedError

    recorded, changed = read_interface("methods"), interface.describe_methods(Demanding)
    assert changed != recorded
    assert set(interface.list_method_breaks(recorded, changed)) == {
        "trigger_crash_dump needs the argument urgency, and did not before",
        "get_diagnostics needs the argument history, and did not before",
    }


def test_a_new_required_argument_of_an_action_is_caught() -> None:
    changed = rebuild(models.ActionRequest, urgency=(int, ...))
    assert is_seen_without_a_version(changed, "rpc")
    assert list_breaks_of_models(ActionRequest=changed) == ["ActionRequest.urgency must be there, and was not before"]
    for release in versions.RELEASES:
        with pytest.raises(ValidationError, match="urgency"):
            changed.from_wire(golden.read_sample(release, "rpc/trigger_crash_dump.json")["message"]["args"]["action"])


def test_a_changed_reply_is_caught() -> None:
    changed = rebuild(models.PingReply, without="journal_id")
    assert is_seen_without_a_version(changed, "rpc")
    assert list_breaks_of_models(PingReply=changed) == ["PingReply.journal_id is gone"]


@pytest.mark.parametrize("number", [versions.RPC_API_VERSION, "2.0"])
def test_a_raised_minimum_version_is_caught(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    recorded = read_interface("methods")
    first, *others = versions.RPC_HISTORY
    without = versions.RpcVersion(first.number, tuple(method for method in first.methods if method != "ping"), first.reason)
    raised = versions.RpcVersion(number, ("ping",), "a ping that says more")
    monkeypatch.setattr(versions, "RPC_HISTORY", (without, *others, raised))
    monkeypatch.setattr(versions, "RPC_API_VERSION", number)
    monkeypatch.setattr(Endpoint, "target", transport.oslo_messaging.Target(version=number))
    changed = interface.describe_methods()
    assert changed != recorded
    *serves, needs = interface.list_method_breaks(recorded, changed)
    assert needs == f"ping needs {number} and needed 1.0: agents of the release before refuse it"
    assert [line.partition(",")[0] for line in serves] == ["an agent serves 2.0"] * (number == "2.0")
    on_the_wire, _ = record_rpc(golden.RPC_VERBS, golden.REPLIES)
    assert on_the_wire["ping"] != golden.read_sample(versions.RELEASE, "rpc/ping.json")


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        (Queue(notifications.HEARTBEAT_QUEUE.name, queue_arguments={"x-max-length": 50_000}), "arguments was"),
        (Queue(notifications.HEARTBEAT_QUEUE.name, durable=False), "durable was True and is False"),
        (Queue(notifications.HEARTBEAT_QUEUE.name, notifications.EVENTS_EXCHANGE, routing_key="beats"), "bindings was"),
    ],
    ids=["arguments", "durable", "binding"],
)
def test_changed_queue_arguments_are_caught(monkeypatch: pytest.MonkeyPatch, queue: Queue, told: str) -> None:
    recorded = read_interface("declarations")
    monkeypatch.setattr(notifications, "HEARTBEAT_QUEUE", queue)
    changed = interface.describe_declarations()
    assert changed != recorded
    assert f"queue crashcart.heartbeats: {told}" in " ".join(interface.list_declaration_breaks(recorded, changed))


def test_changed_queue_arguments_of_rpc_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = read_interface("declarations")
    monkeypatch.setitem(transport._RABBIT_DEFAULTS, "rabbit_quorum_queue", False)
    breaks = interface.list_declaration_breaks(recorded, interface.describe_declarations())
    assert any(line.startswith("queue compute_agent.HOST: arguments was {'x-queue-type': 'quorum'} and is {}") for line in breaks)
    assert any(line.startswith("exchange crashcart: durable was True and is False") for line in breaks)


def test_a_minor_version_may_add_methods_optional_arguments_and_queues() -> None:
    methods, declared = read_interface("methods"), read_interface("declarations")
    more = copy.deepcopy(methods)
    more["methods"]["levitate"] = {"needs": "1.9", "arguments": {"server": "required"}}
    more["methods"]["ping"]["arguments"]["loudly"] = {"default": False}
    more["serves"] = "1.9"
    assert interface.list_method_breaks(methods, more) == []
    urgent = rebuild(models.ActionRequest, urgency=(int | None, None))
    assert list_breaks_of_models(ActionRequest=urgent) == []
    assert is_seen_without_a_version(urgent, "rpc")
    declared_more = {**declared, "queues": declared["queues"] | {"crashcart.more": {"durable": True}}}
    assert interface.list_declaration_breaks(declared, declared_more) == []


@pytest.mark.parametrize(("before", "after"), list(itertools.pairwise(versions.RELEASES)))
def test_no_release_breaks_the_interface_of_the_one_before(before: str, after: str) -> None:
    for name, list_breaks in (
        ("methods", interface.list_method_breaks),
        ("models", interface.list_model_breaks),
        ("declarations", interface.list_declaration_breaks),
    ):
        assert list_breaks(read_interface(name, before), read_interface(name, after)) == [], name
