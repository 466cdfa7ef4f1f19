"""``PATCH /v1/servers/{id}``: what fits is set, what does not is named, and then nothing was set at all."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from api_gateway.faults import Fault
from api_gateway.native.overlay_body import parse_overlay_body
from api_gateway.openapi.document import OPERATIONS
from tests.http.application import Application, create_application
from tests.http.fleet import RUNNING

LONG = "x" * 256
PATH = f"/v1/servers/{RUNNING}"
BODY = OPERATIONS["PATCH", "/v1/servers/{server_id}"].body or {}
"""What the document says of the body."""


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = create_application(tmp_path_factory.mktemp("overlays"))
    yield application
    application.close()


BAD: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: value}, f"{name} must be one line of 1 to 255 characters")
        for name in ("name", "project", "user")
        for value in ("", LONG, 5, True, ["web"], {"a": 1}, "a\0b", "a\nb", "a\n", "\u001b[31m", " a", "a ", "\u202egpj.exe", "\ud800")
    ),
    *(({"description": value}, "description must be empty, one line") for value in (LONG, 5, "a\nb", "a\0", " ")),
    *(({"vm_state": value}, "vm_state must be null or one of: active, building,") for value in ("deleted", "ACTIVE", "", 1, [], {})),
    *(({"task_state": value}, "task_state must be null or a word") for value in ("", "Rebooting", "a b", "x" * 65, "-a", 1, "a\n")),
    *(({"flavor": value}, "flavor must be null or an object") for value in ("large", 5, [], True)),
    ({"flavor": {"vcpus": 1, "ram": 1}}, "flavor.name must be one line"),
    ({"flavor": {"name": "a", "ram": 1}}, "flavor.vcpus must be a whole number from 0 to 2147483647."),
    *(
        ({"flavor": {"name": "a", "vcpus": 1, "ram": 1, name: value}}, f"flavor.{name} must be a whole number")
        for name in ("vcpus", "ram", "disk", "ephemeral", "swap")
        for value in (-1, 2**31, 1.5, "1", True, None)
    ),
    ({"flavor": {"name": "a", "vcpus": 1, "ram": 1, "id": "7"}}, "Unknown field 'flavor.id'; known are disk, ephemeral,"),
    *(
        ({"flavor": {"name": "a", "vcpus": 1, "ram": 1, "extra_specs": value}}, "flavor.extra_specs must be an object of at most 128")
        for value in ([], "a", {"a": 1}, {"a": "b\0"}, {"": "b"}, {"a": LONG}, {str(number): "x" for number in range(129)})
    ),
    *(
        ({"tags": value}, "tags must be null or a list of at most 50")
        for value in (
            "prod", {}, [1], [""], ["a,b"], ["a/b"], ["x" * 61], ["a", "a"], ["a\0"], [" a"], [["a"]], [*map(str, range(51))],
        )
    ),
    ({"host": "compute-2"}, "Unknown field 'host'; known are description,"),
    ({"locked": True}, "Unknown field 'locked'"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "message"), BAD, ids=[f"{number}-{next(iter(field))}" for number, (field, _) in enumerate(BAD)])
def test_what_does_not_fit_is_named(field: dict[str, Any], message: str) -> None:
    with pytest.raises(Fault) as refused:
        parse_overlay_body({"description": "fine"} | field)
    assert refused.value.status == 400
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize("value", ["", "a\0", "\ud800", "\u202egpj.exe", 5, ["web"]])
def test_of_a_body_that_does_not_fit_nothing_is_set(application: Application, value: object) -> None:
    body = json.dumps({"description": "fine", "name": value})
    answer = application.client.simulate_patch(PATH, body=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json)) == (400, ["badRequest"])
    assert application.client.simulate_get(PATH).json["overlay"] == {}


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"name"', b"\xff", b'{"name": NaN}', b'{"a":' * 40 + b"1" + b"}" * 40])
def test_what_is_no_object_is_refused(application: Application, body: bytes) -> None:
    answer = application.client.simulate_patch(PATH, body=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert application.client.simulate_get(PATH).json["overlay"] == {}


@pytest.mark.parametrize("field", [
    {"name": "x" * 255}, {"name": "Füße 🚚"}, {"name": "a"}, {"description": ""}, {"project": "0123456789abcdef"},
    {"vm_state": "soft-delete"}, {"task_state": "powering-off"}, {"tags": []}, {"tags": [*map(str, range(50))]}, {"tags": ["rack 7"]},
    {"flavor": {"name": "a", "vcpus": 0, "ram": 2**31 - 1, "extra_specs": {"hw:cpu_policy": "dedicated"}}},
])  # fmt: skip
def test_what_fits_is_set_and_taken_back(application: Application, field: dict[str, Any]) -> None:
    name = next(iter(field))
    answer = application.client.simulate_patch(PATH, json=field)
    assert answer.status_code == 200
    assert {key: value for key, value in answer.json["overlay"].items() if name != "flavor"} == (field if name != "flavor" else {})
    assert application.client.simulate_get(PATH).json == answer.json
    assert application.client.simulate_patch(PATH, json={name: None}).json["overlay"] == {}


_FLAVORS = st.fixed_dictionaries(
    {"name": st.text(max_size=2), "vcpus": st.integers(-1, 4), "ram": st.integers(-1, 4)}, optional={"swap": st.integers(-1, 1)}
)
_LOOSE = st.one_of(
    st.sampled_from([None, True, "active", "a b", "x,y", 2**31]),
    st.integers(-2, 2),
    st.text(max_size=4),
    st.text(min_size=253, max_size=257),
    st.lists(st.text(max_size=3), max_size=3),
    _FLAVORS,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from([*BODY["properties"], "other"]), _LOOSE, max_size=2))
def test_exactly_what_the_document_says_is_taken(body: dict[str, Any]) -> None:
    said = Draft202012Validator(BODY).is_valid(body)
    if any(isinstance(value, str) and value.endswith("\n") for value in body.values()):
        return  # Python's $ is not that of the document
    with nullcontext() if said else pytest.raises(Fault):
        parse_overlay_body(body)
