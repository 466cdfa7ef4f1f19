"""What ``/v1`` takes: bodies and query parameters, checked by hand, each refusal naming the field and what it may be."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from api_gateway.faults import bad_request
from api_gateway.native.overlay_body import is_line
from api_gateway.visibility import is_server_id
from compute_agent.contract.models import ActionKind
from compute_agent.contract.text import LONGEST_LINE

ASKED_ELSEWHERE: Mapping[ActionKind, str] = {
    ActionKind.SET_WATCHDOG: "PUT /v1/servers/{server_id}/watchdog",
    ActionKind.REMOVE_WATCHDOG: "DELETE /v1/servers/{server_id}/watchdog",
}
"""Kinds of action that have a route of their own."""
POSTED_KINDS = tuple(kind for kind in ActionKind if kind not in ASKED_ELSEWHERE)

_FIELDS = frozenset({"kind", "deadline_seconds", "force", "idempotency_key"})
LONGEST_KEY = 255
MOST_COLLECTED = 200
"""Servers of one request to collect diagnostics of: they are taken on in one transaction, which keeps others from writing."""
_SELECTORS = ("servers", "host", "project")
_COLLECT_FIELDS = frozenset({*_SELECTORS, "marker", "deadline_seconds"})
_WATCHDOG_FIELDS = frozenset({"model", "expiry_action", "replace", "deadline_seconds", "idempotency_key"})
WORD_PATTERN = "^[a-z0-9][a-z0-9_-]{0,31}$"
"""A model or an expiry action; which of them there are is for the server's platform to say."""


@dataclass(frozen=True)
class ActionBody:
    """What is asked of a server: the body of ``POST /v1/servers/{id}/actions``, or what another route makes of its own. ``deadline`` None:
    as configured. ``arguments``: what only this kind has."""

    kind: ActionKind
    deadline: timedelta | None = None
    force: bool = False
    idempotency_key: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def parse_action_body(body: Any, *, max_deadline: timedelta) -> ActionBody:
    """:raises Fault: 400 naming the field that does not fit."""
    _check_object(body)
    kind = _parse_kind(body.get("kind"))  # first: of one that has a route of its own the fields are not these
    _check_fields(body, _FIELDS)
    return ActionBody(
        kind,
        _parse_deadline(body.get("deadline_seconds"), max_deadline),
        _parse_boolean("force", body.get("force", False)),
        _parse_key(body.get("idempotency_key")),
    )


def parse_watchdog_body(body: Any, *, max_deadline: timedelta) -> ActionBody:
    """The body of ``PUT /v1/servers/{id}/watchdog``.

    :raises Fault: 400 naming the field that does not fit.
    """
    _check_fields(body, _WATCHDOG_FIELDS)
    return ActionBody(
        ActionKind.SET_WATCHDOG,
        deadline=_parse_deadline(body.get("deadline_seconds"), max_deadline),
        idempotency_key=_parse_key(body.get("idempotency_key")),
        arguments={
            "watchdog": {name: _parse_word(name, body.get(name)) for name in ("model", "expiry_action")},
            "replace": _parse_boolean("replace", body.get("replace", True)),
        },
    )


def parse_removal_query(deadline: str | None, key: str | None, *, max_deadline: timedelta) -> ActionBody:
    """The query of ``DELETE /v1/servers/{id}/watchdog``.

    :raises Fault: 400 naming the parameter that does not fit.
    """
    seconds = None
    if deadline is not None:
        try:
            seconds = float(deadline)
        except ValueError:
            seconds = math.nan  # no number from 1 to anything
    return ActionBody(
        ActionKind.REMOVE_WATCHDOG,
        deadline=_parse_deadline(seconds, max_deadline),
        idempotency_key=_parse_key(key),
    )


@dataclass(frozen=True)
class CollectBody:
    """The body of ``POST /v1/diagnostics``: the servers themselves, or (``servers`` None) those of a host or project behind ``marker``."""

    servers: tuple[str, ...] | None
    host: str | None
    project: str | None
    marker: str | None
    deadline: timedelta | None


def parse_collect_body(body: Any, *, max_deadline: timedelta) -> CollectBody:
    """:raises Fault: 400 naming the field that does not fit."""
    _check_fields(body, _COLLECT_FIELDS)
    if sum(name in body for name in _SELECTORS) != 1:
        raise bad_request(f"The body must have exactly one of: {', '.join(_SELECTORS)}.")
    if "marker" in body and "servers" in body:
        raise bad_request("marker goes with host or project: a list of servers has no further page.")
    marker = body.get("marker")
    if marker is not None and not (isinstance(marker, str) and is_server_id(marker)):
        raise bad_request("marker must be the id of a server, or null.")
    return CollectBody(
        servers=_parse_servers(body["servers"]) if "servers" in body else None,
        host=_parse_name("host", body["host"]) if "host" in body else None,
        project=_parse_name("project", body["project"]) if "project" in body else None,
        marker=marker,
        deadline=_parse_deadline(body.get("deadline_seconds"), max_deadline),
    )


def parse_history(text: str | None) -> int:
    """How many samples of the past to show.

    :raises Fault: 400 unless it is a whole number.
    """
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal()):
        raise bad_request("history must be a whole number, not negative.")
    return int(text[-9:]) if not text[:-9].strip("0") else 10**9


def parse_wait(text: str | None, max_wait: float) -> float:
    """How many seconds a request may wait.

    :raises Fault: 400 unless it is a number of seconds, not negative.
    """
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise bad_request(f"wait must be a number of seconds from 0 to {max_wait:g}.")
    return min(seconds, max_wait)


def _check_object(body: Any) -> None:
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.")


def _check_fields(body: Any, known: frozenset[str]) -> None:
    _check_object(body)
    for name in body:
        if name not in known:
            raise bad_request(f"Unknown field '{name}'; known are {', '.join(sorted(known))}.")


def _parse_servers(value: Any) -> tuple[str, ...]:
    fits = isinstance(value, list) and 1 <= len(value) <= MOST_COLLECTED
    if not fits or not all(isinstance(server, str) and is_server_id(server) for server in value) or len(set(value)) < len(value):
        raise bad_request(f"servers must be a list of 1 to {MOST_COLLECTED} different ids of servers.")
    return tuple(value)


def _parse_name(name: str, value: Any) -> str:
    if not is_line(value):
        raise bad_request(f"{name} must be one line of 1 to {LONGEST_LINE} characters.")
    return str(value)


def _parse_kind(value: Any) -> ActionKind:
    if not isinstance(value, str) or value not in tuple(ActionKind):
        raise bad_request(f"kind must be one of: {', '.join(POSTED_KINDS)}.")
    kind = ActionKind(value)
    if kind in ASKED_ELSEWHERE:
        raise bad_request(f"{kind} is asked for with {ASKED_ELSEWHERE[kind]}; kind must be one of: {', '.join(POSTED_KINDS)}.")
    return kind


def _parse_word(name: str, value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(WORD_PATTERN, value) is None:
        raise bad_request(f"{name} must be given, a word of those that GET /v1/watchdog-models lists.")
    return value


def _parse_deadline(value: Any, max_deadline: timedelta) -> timedelta | None:
    if value is None:
        return None
    most = max_deadline.total_seconds()
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= most
    if not fits:
        raise bad_request(f"deadline_seconds must be a number from 1 to {most:g}.")
    return timedelta(seconds=value)


def _parse_boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise bad_request(f"{name} must be true or false.")
    return value


def _parse_key(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_KEY or not (value.isascii() and value.isprintable()):
        raise bad_request(f"idempotency_key must be 1 to {LONGEST_KEY} printable ASCII characters.")
    return value
