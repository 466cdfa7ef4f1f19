"""Whatever a client sends, it gets the fault envelope, and never a 500."""

import json
from collections.abc import Iterator

import pytest
from falcon import testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api_gateway.store import actions
from tests.http.application import Application, create_application
from tests.http.fleet import DUMPED, RUNNING

ACTION_URL = f"/v2.1/servers/{RUNNING}/action"
NATIVE_URL = f"/v1/servers/{RUNNING}/actions"
DUMP_VERSION = {"OpenStack-API-Version": "compute 2.17", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = create_application(tmp_path_factory.mktemp("input"))
    yield application
    application.close()


def count_actions(application: Application) -> int:
    with application.store.read() as c:
        return len(actions.list_actions_of_server(c, RUNNING))


@pytest.mark.parametrize("url", [ACTION_URL, NATIVE_URL])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"a":' * 15_000 + b"1" + b"}" * 15_000, 400),
        (b'{"trigger_crash_dump": ' + b"[" * 50 + b"]" * 50 + b"}", 400),
        (b"\xff\xfe", 400),
        (b'{"trigger_crash_dump": "\x00"}', 400),
        (b'{"trigger_crash_dump": ' + b"9" * 5_000 + b"}", 400),
        (b'"trigger_crash_dump"', 400),
        (b" " * 114_689, 413),
        (b"\xef\xbb\xbf{}", 400),
    ],
    ids=["deep list", "deep object", "deep value", "bad UTF-8", "NUL", "long number", "text", "too large", "byte order mark"],
)
def test_bodies_of_every_wrong_kind_change_nothing(application: Application, url: str, body: bytes, status: int) -> None:
    answer = application.client.simulate_post(url, body=body, headers=DUMP_VERSION)

    assert answer.status_code == status
    (fault,) = answer.json.values()
    assert fault["code"] == status
    assert fault["message"]
    assert count_actions(application) == 0


def test_a_body_without_a_length_is_limited_too(application: Application) -> None:
    """A chunked body has no Content-Length that could be refused beforehand."""
    answer = application.client.simulate_post(
        ACTION_URL, body=b" " * 114_689, headers={**DUMP_VERSION, "Transfer-Encoding": "chunked", "Content-Length": ""}
    )

    assert answer.status_code == 413


@pytest.mark.parametrize("length", ["-1", "many", "1e3"])
def test_a_length_that_is_none_is_refused(application: Application, length: str) -> None:
    """Called without falcon's client, which would not send it."""
    environ = testing.create_environ(ACTION_URL, method="POST", host="localhost")
    started = testing.StartResponseMock()

    body = b"".join(application.app({**environ, "CONTENT_LENGTH": length}, started))

    assert started.status.startswith("400")
    assert b"badRequest" in body


@pytest.mark.parametrize("path", ["/v2.1/servers/%ff%fe", "/v1/actions/%ff", "/v1/servers/..%2f/actions", "/v2.1//servers", "/v1"])
def test_odd_paths_are_not_found(application: Application, path: str) -> None:
    answer = application.client.simulate_get(path)

    assert answer.status_code == 404
    assert answer.json["itemNotFound"]["code"] == 404


@pytest.mark.parametrize("header", ["X-User-Id", "X-Project-Id", "X-Roles"])
def test_identities_that_cannot_be_recorded_are_refused(application: Application, header: str) -> None:
    for value in ("a" * 256, "caf\u00e9"):
        assert application.client.simulate_get("/v2.1/servers", headers={header: value}).status_code == 400


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "PROPFIND", "NONSENSE"])
def test_methods_that_there_are_not_get_the_envelope(application: Application, method: str) -> None:
    answer = application.client.simulate_request(method, "/v2.1/servers")

    assert answer.status_code in (400, 404)
    assert set(next(iter(answer.json.values()))) >= {"code", "message"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=20), children, max_size=4),
    max_leaves=12,
)
BODIES = st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode())
NATIVE_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.just("trigger_crash_dump") | JSON_VALUES,
        "deadline_seconds": JSON_VALUES,
        "force": JSON_VALUES,
        "idempotency_key": JSON_VALUES,
    },
).map(lambda value: json.dumps(value).encode())
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(body=BODIES | NATIVE_BODIES)
def test_no_body_is_answered_with_a_500(application: Application, body: bytes) -> None:
    for url in (ACTION_URL.replace(RUNNING, DUMPED), NATIVE_URL.replace(RUNNING, DUMPED)):
        answer = application.client.simulate_post(url, body=body, headers=DUMP_VERSION)

        # One of them may happen to be right: forced, it is accepted in spite of the hold-off.
        assert answer.status_code in (202, 400, 409, 413, 415)
        if answer.status_code != 202:
            assert set(next(iter(answer.json.values()))) >= {"code", "message"}


@QUIET
@given(
    parameters=st.dictionaries(
        st.sampled_from(
            [
                "limit",
                "marker",
                "name",
                "status",
                "host",
                "deleted",
                "all_tenants",
                "changes-since",
                "changes-before",
                "sort_key",
                "tenant_id",
                "vm_state",
                "power_state",
                "locked",
                "tags",
                "wait",
                "x",
            ]
        ),
        st.text(max_size=30).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)),
        max_size=4,
    ),
    version=st.sampled_from(["2.1", "2.58", "2.66", "2.73", "2.75", "2.100"]),
)
def test_no_query_is_answered_with_a_500(application: Application, parameters: dict[str, str], version: str) -> None:
    for path in ("/v2.1/servers", f"/v2.1/servers/{DUMPED}/os-instance-actions", f"/v1/servers/{DUMPED}/actions"):
        answer = application.client.simulate_get(path, params=parameters, headers={"OpenStack-API-Version": f"compute {version}"})

        assert answer.status_code in (200, 400), answer.text
