"""What ``/v1`` takes: bodies and query parameters, checked by hand, each refusal naming the field and what it may be."""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from api_gateway.faults import bad_request
from compute_agent.contract.models import ActionKind

_FIELDS = frozenset({"kind", "deadline_seconds", "force", "idempotency_key"})
LONGEST_KEY = 255


@dataclass(frozen=True)
class ActionBody:
    """The body of ``POST /v1/servers/{id}/actions``. ``deadline`` None: as configured."""

    kind: ActionKind
    deadline: timedelta | None
    force: bool
    idempotency_key: str | None


def parse_action_body(body: Any, *, max_deadline: timedelta) -> ActionBody:
    """:raises Fault: 400 naming the field that does not fit."""
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.")
    for name in body:
        if name not in _FIELDS:
            raise bad_request(f"Unknown field '{name}'; known are {', '.join(sorted(_FIELDS))}.")
    return ActionBody(
        _parse_kind(body.get("kind")),
        _parse_deadline(body.get("deadline_seconds"), max_deadline),
        _parse_force(body.get("force", False)),
        _parse_key(body.get("idempotency_key")),
    )


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


def _parse_kind(value: Any) -> ActionKind:
    if not isinstance(value, str) or value not in tuple(ActionKind):
        raise bad_request(f"kind must be one of: {', '.join(ActionKind)}.")
    return ActionKind(value)


def _parse_deadline(value: Any, max_deadline: timedelta) -> timedelta | None:
    if value is None:
        return None
    most = max_deadline.total_seconds()
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= most
    if not fits:
        raise bad_request(f"deadline_seconds must be a number from 1 to {most:g}.")
    return timedelta(seconds=value)


def _parse_force(value: Any) -> bool:
    if not isinstance(value, bool):
        raise bad_request("force must be true or false.")
    return value


def _parse_key(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_KEY or not (value.isascii() and value.isprintable()):
        raise bad_request(f"idempotency_key must be 1 to {LONGEST_KEY} printable ASCII characters.")
    return value
