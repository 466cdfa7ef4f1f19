"""The body of ``POST /v1/subscriptions``, checked field by field."""

import re
from dataclasses import dataclass
from typing import Any

from api_gateway.deliveries.targets import EMAIL, WEBHOOK, TargetRefused, check_address_form, parse_url
from api_gateway.faults import bad_request
from api_gateway.native.event_query import MOST_TYPES, TYPE_PATTERN
from api_gateway.native.overlay_body import is_line
from api_gateway.visibility import is_server_id
from compute_agent.contract.text import LONGEST_LINE
from compute_agent.contract.topics import Severity

_FIELDS = frozenset({"types", "severity", "server", "project", "target"})
TARGET_FIELDS = {WEBHOOK: "url", EMAIL: "address"}
"""By its kind: where a target's text is."""


@dataclass(frozen=True)
class SubscriptionBody:
    """``types`` none: every type. ``names_project``: the body says whose events, ``project`` None: everybody's."""

    types: tuple[str, ...]
    severity: str
    server: str | None
    names_project: bool
    project: str | None
    target_kind: str
    target: str


def parse_subscription_body(body: Any) -> SubscriptionBody:
    """:raises Fault: 400 naming the field that does not fit."""
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.")
    _check_names(body, _FIELDS, "")
    if body.get("server") is not None and "project" in body:
        raise bad_request("server and project exclude each other: a server's events are those of its project.")
    kind, target = _parse_target(body.get("target"))
    return SubscriptionBody(
        types=_parse_types(body.get("types")),
        severity=_parse_severity(body.get("severity", Severity.INFO)),
        server=_parse_server(body.get("server")),
        names_project="project" in body,
        project=_parse_project(body.get("project")),
        target_kind=kind,
        target=target,
    )


def _check_names(found: dict[str, Any], known: frozenset[str], prefix: str) -> None:
    for name in found:
        if name not in known:
            raise bad_request(f"Unknown field '{prefix}{name}'; known are {', '.join(sorted(known))}.")


def _parse_target(value: Any) -> tuple[str, str]:
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in TARGET_FIELDS:
        raise bad_request('target must be {"kind": "webhook", "url": "https://..."} or {"kind": "email", "address": "..."}.')
    name = TARGET_FIELDS[kind]
    _check_names(value, frozenset({"kind", name}), "target.")
    text = value.get(name)
    if not isinstance(text, str):
        raise bad_request(f"target.{name} must be a text.")
    try:
        if kind == WEBHOOK:
            parse_url(text)
        else:
            check_address_form(text)
    except TargetRefused as error:
        raise bad_request(f"target.{name}: {error}") from error
    return kind, text


def _parse_types(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    fits = isinstance(value, list) and 1 <= len(value) <= MOST_TYPES
    if not fits or not all(isinstance(word, str) and re.fullmatch(TYPE_PATTERN, word) for word in value) or len(set(value)) < len(value):
        raise bad_request(
            f"types must be null or a list of 1 to {MOST_TYPES} different types of event; one that ends with a * is a beginning "
            "(server.watchdog.*)."
        )
    return tuple(value)


def _parse_severity(value: Any) -> str:
    if not isinstance(value, str) or value not in tuple(Severity):
        raise bad_request(f"severity must be one of: {', '.join(Severity)}.")
    return str(value)


def _parse_server(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and is_server_id(value)):
        raise bad_request("server must be the id of a server, or null.")
    return None if value is None else str(value)


def _parse_project(value: Any) -> str | None:
    if value is not None and not is_line(value):
        raise bad_request(f"project must be one line of 1 to {LONGEST_LINE} characters, or null for all projects.")
    return None if value is None else str(value)
