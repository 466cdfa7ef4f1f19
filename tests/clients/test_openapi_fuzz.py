"""Requests made from ``/openapi.json``, right and wrong ones by the thousand: all answers are as documented, and all documented ones come.

The application is the real one over a provisioned store, asked through WSGI. Generated requests are steered to servers and actions that
there are, and to callers with different rights. What generation does not reach a directed request does; the table that the last test
prints says how often each documented status came, and how.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks

from api_gateway.microversion import HEADER, MAX_VERSION
from api_gateway.openapi.document import OPERATIONS, build_document
from tests.clients.openapi_cases import AT_MAXIMUM, Directed, Key, list_directed
from tests.clients.openapi_world import ACTIONS, CALLERS, SERVERS, World
from tests.fuzzing import count_examples
from tests.http.application import AUTHORITY, Application
from tests.http.described import is_documented_body, list_deviations, read_version
from tests.http.fleet import BLACK_BOX_EVENT, DUMPED, OLD_AGENTS, SUBSCRIPTION

_LEAST = 5_000
_EXAMPLES = count_examples(78)
"""Of right and of wrong requests each, for every operation that takes anything."""

_ANY_VERSION = [checks.status_code_conformance, checks.content_type_conformance]
_CHECKS = [*_ANY_VERSION, checks.response_headers_conformance, checks.response_schema_conformance]
_MAY_BE_AWAY = frozenset(
    {
        ("GET", "/v2.1/servers/{server_id}/diagnostics"),
        ("GET", "/v1/servers/{server_id}/diagnostics"),
        ("GET", "/v1/servers/{server_id}/watchdog"),
        ("GET", "/v1/watchdog-models"),
    }
)
"""Those that need a host's word: 503 while its agent is down, 501 where that can tell nothing."""

_VERSIONED = "/v2.1/servers"
_MAX_DEADLINE = 3600
_DIRECTED = list_directed()


def _takes_anything(key: Key) -> bool:
    operation = OPERATIONS[key]
    return bool(operation.parameters or operation.body or "{" in key[1] or key[1].startswith(_VERSIONED))


def _list_generated() -> list[tuple[Key, GenerationMode]]:
    """Right requests of every operation, and wrong ones where anything can be wrong."""
    right = [(key, GenerationMode.POSITIVE) for key in OPERATIONS]
    return right + [(key, GenerationMode.NEGATIVE) for key in OPERATIONS if _takes_anything(key)]


@dataclass
class Reached:
    """How often which status of which operation came: from generated requests, and from directed ones."""

    world: World
    generated: Counter[tuple[Key, int]] = field(default_factory=Counter)
    directed: dict[tuple[Key, int], str] = field(default_factory=dict)

    def format_table(self) -> str:
        rows = []
        for (method, path), operation in _describe_all():
            for status in sorted(int(status) for status in operation["responses"]):
                pair = ((method, path), status)
                rows.append(f"{method:6} {path:64} {status}  {self.generated[pair]:5}  {self.directed.get(pair, '')}")
        total = sum(self.generated.values())
        return "\n".join([f"{'operation':71} status  generated  directed", *rows, f"{total} generated, {len(_DIRECTED)} directed requests"])


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Reached:
    return Reached(World(tmp_path_factory.mktemp("openapi")))


@pytest.mark.parametrize(("key", "mode"), [pytest.param(*made, id=f"{' '.join(made[0])} {made[1].value}") for made in _list_generated()])
def test_generated_requests_are_answered_as_documented(reached: Reached, key: Key, mode: GenerationMode) -> None:
    """No 5xx, a documented status, and its content type, headers and body; wrong requests are refused."""
    with reached.world.open(max_deadline=_MAX_DEADLINE) as application:
        _ask_generated(reached, application, key, mode, examples=_EXAMPLES if _takes_anything(key) else len(CALLERS) * 4)


def _ask_generated(reached: Reached, application: Application, key: Key, mode: GenerationMode, *, examples: int) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", application.app, base_url=f"http://{AUTHORITY}", headers={"Host": AUTHORITY})

    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=schema[key[1]][key[0]].as_strategy(generation_mode=mode), steering=_steerings())
    def ask(case: Case, steering: "Steering") -> None:
        steering.apply(case)
        answer = case.call(base_url=f"http://{AUTHORITY}")
        reached.generated[(key, answer.status_code)] += 1
        assert answer.status_code < 500 or key in _MAY_BE_AWAY, _reproduce(case, answer)
        _validate(case, answer)
        if OPERATIONS[key].body is not None and _asks_for_maximum(case, answer):
            _check_body(case, answer, known=steering.server is not None, right=mode is GenerationMode.POSITIVE)

    ask()


@dataclass(frozen=True)
class Steering:
    """What a generated request is given of the world: ids that there are, and a caller."""

    server: str | None
    action: str | None
    event: str | None
    subscription: str | None
    caller: dict[str, str]
    at_maximum: bool

    def apply(self, case: Case) -> None:
        """An id or a caller of None leaves what was generated."""
        ids = {
            "server_id": self.server,
            "request_id": self.action,
            "action_id": self.action,
            "event_id": self.event,
            "subscription_id": self.subscription,
        }
        for name, known in ids.items():
            if known is not None and name in case.path_parameters:
                case.path_parameters[name] = known
        case.headers.update(self.caller)
        if self.at_maximum and case.path.startswith(_VERSIONED):
            case.headers[HEADER] = AT_MAXIMUM[HEADER]


def _steerings() -> st.SearchStrategy[Steering]:
    return st.builds(
        Steering,
        server=st.sampled_from([*SERVERS, DUMPED, DUMPED, DUMPED, None, None]),
        action=st.sampled_from([*ACTIONS, None]),
        event=st.sampled_from([BLACK_BOX_EVENT, "1", None]),
        subscription=st.sampled_from([SUBSCRIPTION, None]),
        caller=st.sampled_from(CALLERS),
        at_maximum=st.sampled_from([True, True, True, False]),
    )


def _validate(case: Case, answer: Response) -> None:
    """The document describes the successes of the maximum version only."""
    described = answer.status_code >= 300 or _asks_for_maximum(case, answer)
    # To Schemathesis a request without the version's header is wrong, and so is "null" where a text is meant; it is neither.
    rejection = [] if case.path.startswith(_VERSIONED) else [checks.negative_data_rejection]
    case.validate_response(answer, checks=[*_CHECKS, *rejection] if described else _ANY_VERSION)


def _asks_for_maximum(case: Case, answer: Response) -> bool:
    """By what was sent: a header that the case has may have been left out."""
    sent = {name.lower(): value for name, value in answer.request.headers.items()}
    return not case.path.startswith(_VERSIONED) or read_version(sent) in (MAX_VERSION, "latest")


def _check_body(case: Case, answer: Response, *, known: bool, right: bool) -> None:
    """A body is refused with 400 when, and only when, it is not as documented.

    :param known: the server is one of the fleet
    :param right: nothing else about the request is wrong
    """
    if not is_documented_body(case.operation.method, case.operation.path, case.body):
        assert answer.status_code == 400 or (not known and answer.status_code == 404), _reproduce(case, answer)
    elif right and not _is_beyond_schemas(case):
        assert answer.status_code != 400, _reproduce(case, answer)


def _reproduce(case: Case, answer: Response) -> str:
    return f"{case.as_curl_command()}\n{answer.status_code} {answer.text}"


def _is_beyond_schemas(case: Case) -> bool:
    """What no schema says: how long a deadline this gateway grants, which agent is too old, behind which server a page may begin, which
    watchdogs a platform knows, which of all URLs may be called, and that no text may have a NUL."""
    body = case.body if isinstance(case.body, dict) else {}
    is_too_old = (case.path_parameters or {}).get("server_id") == OLD_AGENTS
    is_refused = (body.get("deadline_seconds") or 0) > _MAX_DEADLINE or body.get("marker") is not None or "model" in body
    is_elsewhere = isinstance(body.get("target"), dict) and "url" in body["target"]
    return is_too_old or is_refused or is_elsewhere or r"\u0000" in json.dumps(case.body)


@pytest.mark.parametrize("directed", _DIRECTED, ids=lambda directed: directed.name)
def test_every_documented_status_comes_as_documented(reached: Reached, directed: Directed) -> None:
    with reached.world.open(strategy=directed.strategy, **directed.options) as application:
        answer = directed.ask(application)

    method, path = directed.key
    headers = [(name, value) for name, value in answer.headers.items()]
    assert answer.status_code == directed.status, answer.text
    assert list_deviations(method, path.format(**directed.path), MAX_VERSION, answer.status_code, headers, answer.content) == []
    reached.directed[(directed.key, directed.status)] = directed.words


def test_every_documented_status_was_reached(reached: Reached, capsys: pytest.CaptureFixture[str]) -> None:
    """Stands last: it counts what the tests above got."""
    with capsys.disabled():
        print(f"\n{reached.format_table()}")
    never = [
        f"{' '.join(key)} {status}"
        for key, operation in _describe_all()
        for status in map(int, operation["responses"])
        if not reached.generated[(key, status)] and (key, status) not in reached.directed
    ]

    assert never == []
    assert sum(reached.generated.values()) >= _LEAST


def _describe_all() -> Iterator[tuple[Key, dict]]:
    paths = build_document()["paths"]
    for method, path in OPERATIONS:
        yield (method, path), paths[path][method.lower()]
