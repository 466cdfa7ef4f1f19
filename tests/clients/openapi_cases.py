"""For every documented status of every operation one request that gets it: what generated requests cannot reach is reached by these.

A row says in words what brings the status about; a table of them is printed by the test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from api_gateway.limits import MAX_BODY_BYTES
from api_gateway.microversion import HEADER, MAX_VERSION
from api_gateway.openapi.document import OPERATIONS
from api_gateway.openapi.operation import Operation
from api_gateway.store import StoreUnavailable, actions
from tests.http import fleet
from tests.http.application import Application

Key = tuple[str, str]
"""Method and path of an operation."""

AT_MAXIMUM = {HEADER: f"compute {MAX_VERSION}"}

_PATH = {
    "server_id": fleet.DUMPED,
    "request_id": fleet.PANICKED_ACTION,
    "action_id": fleet.PANICKED_ACTION,
    "event_id": fleet.BLACK_BOX_EVENT,
    "part": next(iter(fleet.BLACK_BOX_PARTS)),
    "subscription_id": fleet.SUBSCRIPTION,
    "schema_name": "action.ended",
}
_UNHEARD_OF = {
    "server_id": fleet.UNHEARD_OF,
    "request_id": fleet.NO_ACTION,
    "action_id": fleet.NO_ACTION,
    "event_id": "77",
    "part": "nothing",
    "subscription_id": fleet.UNHEARD_OF,
    "schema_name": "server.abducted",
}
_BODIES: dict[Key, Any] = {
    ("POST", "/v2.1/servers/{server_id}/action"): {"trigger_crash_dump": None},
    ("POST", "/v1/servers/{server_id}/actions"): {"kind": "trigger_crash_dump"},
    ("PATCH", "/v1/servers/{server_id}"): {"description": "under repair"},
    ("PUT", "/v1/servers/{server_id}/watchdog"): {"model": "i6300esb", "expiry_action": "reset"},
    ("POST", "/v1/diagnostics"): {"servers": [fleet.RUNNING, fleet.UNHEARD_OF]},
    ("POST", "/v1/subscriptions"): {"target": {"kind": "webhook", "url": "https://hooks.example/"}},
}
"""A body that fits, for the operations that take one."""

_UNHEARD_OF_QUERIES: dict[Key, str] = {("GET", "/v1/watchdog-models"): f"server_id={fleet.UNHEARD_OF}"}
"""For the operations whose queries name what there may not be."""

Before = Callable[[Application], None]


def _nothing(_application: Application) -> None:
    """The fleet as it is."""


@dataclass(frozen=True)
class Directed:
    """One request. ``before`` prepares the application, whose ``[api]`` options are ``options``; ``strategy`` is its authentication."""

    key: Key
    status: int
    words: str
    path: Mapping[str, str] = field(default_factory=lambda: _PATH)
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    raw: bytes | None = None
    before: Before = _nothing
    options: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = "none"

    @property
    def name(self) -> str:
        return f"{self.key[0]} {self.key[1]} {self.status}"

    def ask(self, application: Application) -> Any:
        """Send the request; the answer."""
        self.before(application)
        method, path = self.key
        body = self.body if self.body is not None else _BODIES.get(self.key)
        raw = self.raw
        return application.client.simulate_request(
            method,
            path.format(**self.path),
            query_string=self.query,
            headers={**AT_MAXIMUM, **self.headers},
            **({"body": raw} if raw is not None or body is None else {"json": body}),
        )


def list_directed() -> list[Directed]:
    """All of them, the general ones of each operation first."""
    return [*(case for key, operation in OPERATIONS.items() for case in _list_general(key, operation)), *_PARTICULAR]


def _list_general(key: Key, operation: Operation) -> list[Directed]:
    """What any operation of its kind answers to the same mistake."""
    cases = [
        Directed(key, 400, "a NUL byte in the URL", query="name=%00"),
        Directed(key, 403, "asked by a web page of another site", headers={"Origin": "https://elsewhere.example"}),
        Directed(key, 413, "a body that is too large", raw=b" " * (MAX_BODY_BYTES + 1)),
    ]
    if 200 in operation.answers and key not in _PARTICULAR_SUCCESSES:
        cases.append(Directed(key, 200, "asked as documented"))
    if not operation.is_open:
        cases.append(Directed(key, 401, "without a password", strategy="http_basic"))
    if operation.needs_store:
        cases.append(Directed(key, 503, "while the store is away", before=_lose_store))
    if operation.body is not None:
        cases.append(Directed(key, 415, "a body of another media type", headers={"Content-Type": "text/xml"}, raw=b"<action/>"))
    if key[1].startswith("/v2.1/servers"):
        cases.append(Directed(key, 406, "a version that there is not", headers={HEADER: "compute 2.999"}))
    if 404 in operation.faults and ("{" in key[1] or key in _UNHEARD_OF_QUERIES):
        cases.append(Directed(key, 404, "ids that nobody has", path=_UNHEARD_OF, query=_UNHEARD_OF_QUERIES.get(key, "")))
    return cases


def _lose_store(application: Application) -> None:
    def refuse(**_: object) -> Any:
        raise StoreUnavailable("gone")

    application.store.read = refuse  # type: ignore[method-assign]
    application.store.write = refuse  # type: ignore[method-assign]


def _change_parts(application: Application) -> None:
    application.agents.parts = dict.fromkeys(fleet.BLACK_BOX_PARTS, b"something else")


def _end_one_with_key(application: Application) -> None:
    _end(application, application.client.simulate_post(f"/v1/servers/{fleet.RUNNING}/actions", json=_WITH_KEY))


def _end_setting_with_key(application: Application) -> None:
    _end(application, application.client.simulate_put(f"/v1/servers/{fleet.RUNNING}/watchdog", json=_WATCHDOG_WITH_KEY))


def _end_removing_with_key(application: Application) -> None:
    _end(application, application.client.simulate_delete(f"/v1/servers/{fleet.RUNNING}/watchdog", query_string=_KEY_IN_QUERY))


def _add_open_actions(application: Application) -> None:
    fleet.add_open_actions(application.store, application.clock)


def _end(application: Application, asked: Any) -> None:
    with application.store.read() as c:
        row = actions.find_action(c, asked.json["id"])
    assert row is not None
    fleet.end_action(application.store, row)


_WITH_KEY = {"kind": "trigger_crash_dump", "idempotency_key": "once"}
_WATCHDOG_WITH_KEY = {"model": "i6300esb", "expiry_action": "dump", "idempotency_key": "once"}
_KEY_IN_QUERY = "idempotency_key=once"
_RUNNING = {"server_id": fleet.RUNNING}
_SHUTOFF = {"server_id": fleet.SHUTOFF}
_UNMEASURED = {"server_id": fleet.UNMEASURED}
_MISSING = {"server_id": fleet.MISSING}
_OF_DOWN_HOST = {"server_id": fleet.DOWN_AGENTS}
_OLD_AGENTS = {"server_id": fleet.OLD_AGENTS}
_CLAIMED_TWICE = {"server_id": fleet.CONFLICT}
_ONE_OPEN = {"max_open_actions_per_host": 1}
"""The fleet's first host has one."""
_COMPUTE_ACTION = ("POST", "/v2.1/servers/{server_id}/action")
_NATIVE_ACTION = ("POST", "/v1/servers/{server_id}/actions")
_DIAGNOSTICS = ("GET", "/v2.1/servers/{server_id}/diagnostics")
_OWN_DIAGNOSTICS = ("GET", "/v1/servers/{server_id}/diagnostics")
_CANCEL = ("POST", "/v1/actions/{action_id}/cancel")
_PART = ("GET", "/v1/events/{event_id}/black-box/{part}")
_SERVER = ("DELETE", "/v1/servers/{server_id}")
_WATCHDOG, _SET_WATCHDOG, _REMOVE_WATCHDOG = ((method, "/v1/servers/{server_id}/watchdog") for method in ("GET", "PUT", "DELETE"))
_MODELS = ("GET", "/v1/watchdog-models")
_SUBSCRIPTIONS = ("POST", "/v1/subscriptions")
_HOOK = {"kind": "webhook", "url": "https://hooks.example/"}
_PARTICULAR_SUCCESSES = frozenset({_NATIVE_ACTION, _SET_WATCHDOG, _REMOVE_WATCHDOG, _CANCEL})
"""These succeed with 200 in a particular case only."""

_PARTICULAR = [
    Directed(_COMPUTE_ACTION, 202, "a crash dump of a running server", path=_RUNNING),
    Directed(_COMPUTE_ACTION, 409, "a crash dump of a server that is shut off", path=_SHUTOFF),
    Directed(_COMPUTE_ACTION, 429, "a host that has as many open actions as it may", path=_RUNNING, options=_ONE_OPEN),
    Directed(_DIAGNOSTICS, 409, "a server that is shut off", path=_SHUTOFF),
    Directed(_DIAGNOSTICS, 501, "a server of which its driver tells nothing", path=_UNMEASURED),
    Directed(_OWN_DIAGNOSTICS, 409, "a server that is gone from its host", path=_MISSING),
    Directed(_OWN_DIAGNOSTICS, 501, "a server of which its driver tells nothing", path=_UNMEASURED),
    Directed(("POST", "/v1/diagnostics"), 202, "of one server that there is and one that there is not"),
    Directed(_PART, 409, "contents that are not those which the event told of", before=_change_parts),
    Directed(_NATIVE_ACTION, 202, "a crash dump of a running server", path=_RUNNING),
    Directed(_NATIVE_ACTION, 200, "again with the key of one that has ended", path=_RUNNING, body=_WITH_KEY, before=_end_one_with_key),
    Directed(_NATIVE_ACTION, 409, "a crash dump of a server that is shut off", path=_SHUTOFF),
    Directed(_NATIVE_ACTION, 429, "a host that has as many open actions as it may", path=_RUNNING, options=_ONE_OPEN),
    Directed(_CANCEL, 200, "one that was never cast", path={"action_id": fleet.PENDING_ACTION}),
    Directed(_CANCEL, 202, "one that its agent has", path={"action_id": fleet.RECEIVED_ACTION}, before=_add_open_actions),
    Directed(_CANCEL, 409, "one that has ended"),
    Directed(_WATCHDOG, 409, "a server whose agent is too old", path=_OLD_AGENTS),
    Directed(_WATCHDOG, 501, "a server whose driver has no watchdogs", path=_OF_DOWN_HOST),
    Directed(_SET_WATCHDOG, 202, "another one for a running server", path=_RUNNING),
    Directed(
        _SET_WATCHDOG, 200, "again with the key of one that has ended", path=_RUNNING, body=_WATCHDOG_WITH_KEY, before=_end_setting_with_key
    ),
    Directed(_SET_WATCHDOG, 409, "a server that two hosts claim", path=_CLAIMED_TWICE),
    Directed(_SET_WATCHDOG, 429, "a host that has as many open actions as it may", path=_RUNNING, options=_ONE_OPEN),
    Directed(_REMOVE_WATCHDOG, 202, "that of a running server", path=_RUNNING),
    Directed(
        _REMOVE_WATCHDOG, 200, "again with the key of one that has ended", path=_RUNNING, query=_KEY_IN_QUERY, before=_end_removing_with_key
    ),
    Directed(_REMOVE_WATCHDOG, 409, "a server that two hosts claim", path=_CLAIMED_TWICE),
    Directed(_REMOVE_WATCHDOG, 429, "a host that has as many open actions as it may", path=_RUNNING, options=_ONE_OPEN),
    Directed(_MODELS, 409, "a server whose agent is too old", query=f"server_id={fleet.OLD_AGENTS}"),
    Directed(_MODELS, 501, "a server whose driver has no watchdogs", query=f"server_id={fleet.DOWN_AGENTS}"),
    Directed(("GET", "/v1/events/stream"), 307, "from now on"),
    Directed(_SERVER, 204, "a server whose host is down", path=_OF_DOWN_HOST),
    Directed(_SERVER, 409, "a server whose host is up", path=_RUNNING),
    Directed(_SUBSCRIPTIONS, 201, "a webhook"),
    Directed(_SUBSCRIPTIONS, 404, "a server that nobody has", body={"server": fleet.UNHEARD_OF, "target": _HOOK}),
    Directed(_SUBSCRIPTIONS, 409, "by mail, without a mail server", body={"target": {"kind": "email", "address": "ops@example.com"}}),
    Directed(("DELETE", "/v1/subscriptions/{subscription_id}"), 204, "one that there is"),
    *(
        Directed(("GET", path), 503, "while Keystone is away", headers={"X-Auth-Token": "token"}, strategy="keystone")
        for path in ("/openapi.json", "/asyncapi.json", "/v1/schemas", "/v1/schemas/{schema_name}")
    ),
]
