"""An action as ``/v1`` shows it: its ending, what was seen of the guest, and the timeline that led there.

On which host it happened is told to those only who may see where servers are.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from api_gateway.identity import Identity
from api_gateway.native.times import format_time
from api_gateway.policy import is_permitted
from api_gateway.store.actions import ActionRow
from api_gateway.store.events import EventRow
from compute_agent.contract.errors import Ending
from compute_agent.contract.models import ActionKind

_KEYS_OF_RESULT: dict[str, tuple[str, ...]] = {"server.diagnostics": ("report",), "server.host_dump": ("path", "bytes", "duration")}
_ENDINGS_WITH_OBSERVATION = frozenset({Ending.SUCCEEDED, Ending.UNKNOWN})


def view_action(row: ActionRow, identity: Identity, owner: str | None) -> dict[str, Any]:
    """What ``identity`` may know of it. ``owner`` is the project of its server."""
    sees_host = is_permitted(identity, "os_compute_api:os-extended-server-attributes", owner)
    view = {
        "id": row.id,
        "kind": row.kind,
        "server": row.server,
        "project": row.project,
        "user": row.user,
        "state": row.state,
        "ending": row.ending,
        "code": row.code,
        "reason": row.reason,
        "decided_by": row.decided_by,
        "force": row.force,
        "arguments": dict(row.arguments),
        "accepted_at": format_time(row.accepted_at),
        "deadline": format_time(row.deadline),
        "received_at": format_time(row.received_at),
        "started_at": format_time(row.started_at),
        "signalled_at": format_time(row.signalled_at),
        "ended_at": format_time(row.ended_at),
        "recorded_at": format_time(row.recorded_at),
        "revised_at": format_time(row.revised_at),
        "cancel_requested_at": format_time(row.cancel_requested_at),
        "cancel_requested_by": row.cancel_requested_by,
        "observation": _view_observation(row),
        "timeline": _list_timeline(row, f"host {row.host}" if sees_host else "its host"),
    }
    return view | ({"host": row.host} if sees_host else {})


def view_results(events: Sequence[EventRow], prefix: str) -> dict[str, Any]:
    """What came of an action beside its ending: out of those of its events that the caller may see."""
    result: dict[str, Any] | None = None
    black_box: str | None = None
    for event in events:
        if event.event_type == "server.black_box":
            black_box = f"{prefix}/v1/events/{event.position}/black-box"
        elif all(key in event.payload for key in _KEYS_OF_RESULT[event.event_type]):
            result = {key: event.payload[key] for key in _KEYS_OF_RESULT[event.event_type]}
    return {"result": result, "black_box": black_box}


def is_settled(row: ActionRow) -> bool:
    """Whether a waiting caller has what it waits for: the ending, and where a signal was perhaps sent a first observation."""
    if row.ending is None:
        return False
    if row.kind != ActionKind.TRIGGER_CRASH_DUMP:
        return True
    return row.ending not in _ENDINGS_WITH_OBSERVATION or row.observation is not None


def _view_observation(row: ActionRow) -> dict[str, Any] | None:
    if row.observation is None:
        return None
    return {
        "observation": row.observation,
        "final": row.observation_final,
        "observed_at": format_time(row.observed_at),
        "text": row.observation_text,
    }


def _describe_acceptance(row: ActionRow) -> str:
    if row.is_known_by_report_only:
        return "The gateway did not take it on itself; the agent told of it."
    return "The gateway wrote the request down and answered 202."


def _describe_cast(host: str, row: ActionRow) -> str:
    if row.cast_count == 1:
        return f"Sent to {host}."
    with_cancel = ", with what was sent to call it off" if row.is_called_off else ""
    return f"Sent to {host}; {row.cast_count} times in all{with_cancel}, the last one here."


def _list_timeline(row: ActionRow, host: str) -> list[dict[str, Any]]:
    """What happened, earliest first; times of the host are by the host's clock."""
    moments: list[tuple[datetime | None, str, str]] = [
        (row.accepted_at, "accepted", _describe_acceptance(row)),
        (row.last_cast_at, "cast", _describe_cast(host, row)),
        (row.cancel_requested_at, "cancel_requested", f"{row.cancel_requested_by} asked to call it off."),
        (row.received_at, "received", f"The agent of {host} has it in its journal."),
        (row.started_at, "started", "The agent is about to call the driver."),
        (row.signalled_at, "signalled", "The driver's call returned."),
        (row.ended_at, "ended", f"{row.ending} ({row.code}): {row.reason}"),
        (row.observed_at, "observed", f"{row.observation}: {row.observation_text}"),
        (row.recorded_at, "recorded", "The gateway learned of the ending."),
        (row.revised_at, "revised", "The agent's own ending replaced what the gateway had assumed."),
    ]
    known = [(at, event, text) for at, event, text in moments if at is not None]
    known.sort(key=lambda moment: moment[0])
    return [{"at": format_time(at), "event": event, "text": text} for at, event, text in known]
