"""The schemas of the Compute API: which holds in which version, and what a refusal says."""

import pytest
from jsonschema import Draft4Validator, Draft202012Validator

from api_gateway.compute.schemas import ACTION_BODIES, ACTION_LIST_QUERY, SERVER_LIST_QUERY, Versions, find_schema
from api_gateway.compute.server_actions import SERVER_ACTIONS
from api_gateway.compute.server_filters import CANNOT, FILTERS, KNOWN
from api_gateway.compute.server_sorting import list_sort_keys
from api_gateway.compute.validation import check_body, check_query
from api_gateway.faults import Fault
from api_gateway.microversion import Since

TABLES: list[Versions] = [*ACTION_BODIES.values(), ACTION_LIST_QUERY, SERVER_LIST_QUERY]


@pytest.mark.parametrize("versions", TABLES)
def test_the_versions_of_a_schema_ascend_and_mean_the_same_to_old_and_new_readers(versions: Versions) -> None:
    assert [since for since, _ in versions] == sorted({since for since, _ in versions})
    for _, schema in versions:
        if schema is not None:
            Draft4Validator.check_schema(schema)
            Draft202012Validator.check_schema(schema)


def test_every_action_has_its_body_and_every_body_its_action() -> None:
    assert SERVER_ACTIONS.keys() == ACTION_BODIES.keys()
    assert all(action.bodies is ACTION_BODIES[name] for name, action in SERVER_ACTIONS.items())


def test_a_body_is_unknown_before_its_version_and_then_as_its_version_has_it() -> None:
    assert find_schema(ACTION_BODIES["trigger_crash_dump"], 16) is None
    assert find_schema(ACTION_BODIES["trigger_crash_dump"], 17) is not None
    assert find_schema(ACTION_BODIES["lock"], 72) is find_schema(ACTION_BODIES["lock"], 1)
    assert find_schema(ACTION_BODIES["lock"], 73) is find_schema(ACTION_BODIES["lock"], 100)
    assert find_schema(ACTION_BODIES["lock"], 72) != find_schema(ACTION_BODIES["lock"], 73)


@pytest.mark.parametrize(
    ("name", "version", "value", "message"),
    [
        ("trigger_crash_dump", 17, {}, "Invalid input for field/attribute trigger_crash_dump. Value: {}. {} is not of type 'null'"),
        ("trigger_crash_dump", 17, 0, "Invalid input for field/attribute trigger_crash_dump. Value: 0. 0 is not of type 'null'"),
        ("lock", 73, [], "Invalid input for field/attribute lock. Value: []. [] is not of type 'object', 'null'"),
    ],
)
def test_a_refused_body_is_named_and_quoted_as_nova_does(name: str, version: int, value: object, message: str) -> None:
    with pytest.raises(Fault) as refused:
        check_body(ACTION_BODIES[name], version, {name: value})

    assert (refused.value.status, refused.value.message) == (400, message)


def test_a_query_parameter_is_refused_before_it_is_read() -> None:
    with pytest.raises(Fault, match=r"changes-since. Value: soon. 'soon' is not a 'date-time'"):
        check_query(SERVER_LIST_QUERY, 1, {"changes-since": ["soon"]})
    check_query(SERVER_LIST_QUERY, 65, {"changes-before": ["soon"]})  # not a parameter yet
    with pytest.raises(Fault, match="changes-before"):
        check_query(SERVER_LIST_QUERY, 66, {"changes-before": ["soon"]})


def test_every_known_parameter_passes_the_strict_versions_and_no_other_does() -> None:
    schema = find_schema(SERVER_LIST_QUERY, Since.STRICT_SERVER_QUERY)
    assert schema is not None
    assert schema["properties"].keys() == KNOWN
    assert not schema["additionalProperties"]
    assert FILTERS.keys() > CANNOT


def test_sort_keys_that_were_only_ignored_are_gone_from_the_strict_versions() -> None:
    assert "vm_mode" in list_sort_keys(Since.STRICT_SERVER_QUERY - 1)
    assert "vm_mode" not in list_sort_keys(Since.STRICT_SERVER_QUERY)
    assert "locked" in list_sort_keys(Since.STRICT_SERVER_QUERY)
