"""The OpenAPI document says what the application does: all of its routes, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from api_gateway.compute.routes import ROUTES as COMPUTE_ROUTES
from api_gateway.compute.schemas import ACTION_BODIES, ACTION_LIST_QUERY, SERVER_LIST_QUERY, Versions, find_schema
from api_gateway.compute.server_filters import CANNOT
from api_gateway.documents import ROUTES as DOCUMENT_ROUTES
from api_gateway.fault_names import FAULT_NAMES
from api_gateway.microversion import Since
from api_gateway.native.routes import ROUTES as NATIVE_ROUTES
from api_gateway.openapi.document import OPERATIONS, build_document
from api_gateway.openapi.refusals import MEANINGS
from tests.http.application import Application, create_application

_OTHER_SPELLING = re.compile(r"/v2($|/)|.*/{project_id}/")
"""The same resources under an older prefix, or with the project in the URL."""


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    application = create_application(tmp_path, fleet=False)
    yield application
    application.close()


def test_every_route_is_documented_and_nothing_else() -> None:
    routes = (*COMPUTE_ROUTES, *NATIVE_ROUTES, *DOCUMENT_ROUTES)
    canonical = [(route.method, route.path) for route in routes if not _OTHER_SPELLING.match(route.path)]

    assert sorted(canonical) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        ("/v2.1/servers", SERVER_LIST_QUERY),
        ("/v2.1/servers/detail", SERVER_LIST_QUERY),
        ("/v2.1/servers/{server_id}/os-instance-actions", ACTION_LIST_QUERY),
    ],
)
def test_query_parameters_are_documented_by_what_they_are_checked_with(path: str, versions: Versions) -> None:
    checked = find_schema(versions, max(Since))
    documented = {parameter["name"]: parameter["schema"] for parameter in OPERATIONS[("GET", path)].parameters}

    assert checked is not None
    assert documented.keys() == checked["properties"].keys() - CANNOT
    for name, schema in documented.items():
        assert checked["properties"][name] in (schema, {"type": "array", "items": schema, "maxItems": 1})


def test_bodies_are_documented_by_what_they_are_checked_with() -> None:
    body = OPERATIONS[("POST", "/v2.1/servers/{server_id}/action")].body

    assert body == {"oneOf": [find_schema(versions, max(Since)) for versions in ACTION_BODIES.values()]}


def test_the_document_is_a_valid_one() -> None:
    validate(build_document())


def test_the_document_is_the_same_each_time() -> None:
    assert json.dumps(build_document()) == json.dumps(build_document())


def test_no_two_operations_have_the_same_name() -> None:
    names = [operation.id for operation in OPERATIONS.values()]

    assert len(set(names)) == len(names)


def test_every_operation_says_in_one_sentence_what_it_does() -> None:
    summaries = [operation.summary for operation in OPERATIONS.values()]

    assert all(summary and summary[0].isupper() and not summary.endswith(".") for summary in summaries)
    assert len(set(summaries)) == len(summaries)


def test_every_refusal_that_is_documented_has_its_fault() -> None:
    assert set(MEANINGS) <= set(FAULT_NAMES)
    assert {status for operation in OPERATIONS.values() for status in operation.faults} <= set(MEANINGS)


def test_the_application_serves_the_document(application: Application) -> None:
    answer = application.client.simulate_get("/openapi.json")

    assert answer.status_code == 200
    assert answer.json == json.loads(json.dumps(build_document()))
    assert application.client.simulate_get("/openapi.json?a=b").status_code == 400
