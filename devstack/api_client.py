"""The HTTP API as a caller sees it, with nothing but the standard library."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from devstack.services import PATIENCE

_TIMEOUT = 30.0 * PATIENCE
"""Seconds that an answer is waited for."""
COMPUTE_MICROVERSION = "2.17"
"""The first one that has trigger_crash_dump."""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer of any status; header names in lower case."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        """The decoded JSON body; None when it is empty."""
        return json.loads(self.text) if self.text else None

    @property
    def request_id(self) -> str:
        """The id of the action that a 202 promises."""
        return self.headers["x-openstack-request-id"]

    @property
    def message(self) -> str:
        """The sentence of a fault, or the text as it came."""
        try:
            fault = next(iter(self.body.values()))
            return str(fault["message"])
        except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
            return self.text


class ApiClient:
    """Talks to one crashcart-api; `headers` go with every request."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = headers or {}
        # A proxy of the environment has no business between us and 127.0.0.1.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Redirects)

    def get(self, path: str, *, timeout: float = _TIMEOUT, headers: dict[str, str] | None = None) -> Answer:
        """GET; an HTTP error or a redirect is an Answer too. Raises OSError when there is no answer within `timeout` seconds."""
        return self.request("GET", path, timeout=timeout, headers=headers)

    def post(self, path: str, body: Any, *, timeout: float = _TIMEOUT, headers: dict[str, str] | None = None) -> Answer:
        """POST of a JSON body; as get()."""
        return self.request("POST", path, body=json.dumps(body).encode(), timeout=timeout, headers=headers)

    def trigger_crash_dump(self, server: str, *, timeout: float = _TIMEOUT) -> Answer:
        """Through the Compute API, as every client of today does it."""
        return self.post(
            f"/v2.1/servers/{server}/action",
            {"trigger_crash_dump": None},
            timeout=timeout,
            headers={"OpenStack-API-Version": f"compute {COMPUTE_MICROVERSION}"},
        )

    def get_action(self, action: str, *, wait: float = 0) -> dict[str, Any]:
        """Our own view of an action, once something is known of it or `wait` seconds have passed; raises LookupError."""
        answer = self.get(f"/v1/actions/{action}?wait={wait:g}", timeout=wait + _TIMEOUT)
        if answer.status != 200:
            raise LookupError(f"GET /v1/actions/{action}: {answer.status} {answer.message}")
        found: dict[str, Any] = answer.body
        return found

    def list_servers(self) -> list[dict[str, Any]]:
        """The servers with their details; raises LookupError."""
        answer = self.get("/v2.1/servers/detail")
        if answer.status != 200:
            raise LookupError(f"GET /v2.1/servers/detail: {answer.status} {answer.message}")
        servers: list[dict[str, Any]] = answer.body["servers"]
        return servers

    def is_healthy(self) -> bool:
        """True when GET /healthcheck answers 200."""
        try:
            return self.get("/healthcheck", timeout=2).status == 200
        except OSError:
            return False

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout: float = _TIMEOUT, headers: dict[str, str] | None = None
    ) -> Answer:
        """Any request; an HTTP error is an Answer too. Raises OSError when there is no answer."""
        sent = self._headers | (headers or {}) | ({"Content-Type": "application/json"} if body is not None else {})
        request = urllib.request.Request(self.url + path, data=body, headers=sent, method=method)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return _read_answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _read_answer(error.code, error.headers, error.read())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Followed by nobody: they are answers as any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read_answer(status: int, headers: Any, content: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, content.decode(errors="replace"))
