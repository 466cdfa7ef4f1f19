"""An event in one line for people: what matters of its type. Tolerant: what a newer release says otherwise is shown as it is."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from compute_agent.consumer.ordering import Event, Gap, GapState
from compute_agent.contract.notifications import Notification

_OF_EVERY_EVENT = frozenset({"version", "server", "host", "epoch", "sequence", "occurred_at"})
_Payload = dict[str, Any]
_OPEN_END = 2**53 - 1
"""``models.OPEN_END``: all of a journal from somewhere on. Here again: to import the models would cost a start half as much again."""


def describe_event(event: Event) -> str:
    """``TIME  SEVERITY  TYPE  server SERVER host HOST  SENTENCE``, without a character that a terminal would obey."""
    notification = event.notification
    payload = notification.payload
    about = [f"{word} {payload[word]}" for word in ("server", "host") if payload.get(word) is not None]
    late = "(late) " if event.late else ""
    parts = [
        _format_time(notification),
        f"{notification.severity.upper():5}",
        f"{notification.event_type:24}",
        " ".join(about),
        late + build_sentence(notification.event_type, payload),
    ]
    return make_printable("  ".join(part for part in parts if part))


def describe_gap(gap: Gap) -> str:
    """A line of its own, which a reader's eye finds."""
    return make_printable(f"--- {gap}" if gap.state is GapState.LOST else f"--- {gap}; they may come yet")


def build_sentence(event_type: str, payload: _Payload) -> str:
    """What this event says beyond its type, server and host."""
    sentence = _SENTENCES.get(event_type)
    if sentence is not None:
        try:
            return sentence(payload)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            pass  # other keys or types than this release knows: shown as they are
    return json.dumps({key: value for key, value in payload.items() if key not in _OF_EVERY_EVENT}, ensure_ascii=False)


def make_printable(text: str) -> str:
    """What a guest, a caller or an attacker wrote may move a terminal's cursor; not here."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _format_time(notification: Notification) -> str:
    occurred_at = notification.payload.get("occurred_at")
    try:
        moment = datetime.fromisoformat(occurred_at) if isinstance(occurred_at, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return notification.timestamp
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _say_received(p: _Payload) -> str:
    return f"{p['kind']} {p['action_id']} for {p.get('user') or 'somebody'}, until {p['deadline']}"


def _say_started(p: _Payload) -> str:
    return f"{p['kind']} {p['action_id']}"


def _say_ended(p: _Payload) -> str:
    by = "" if p["decided_by"] == "agent" else f" (said by the {p['decided_by']})"
    return f"{p['kind']} {p['action_id']} {p['ending']}, {p['code']}: {p['reason']}{by}"


def _say_revised(p: _Payload) -> str:
    return f"{p['kind']} {p['action_id']} {p['ending']}, {p['code']}, no longer {p['previous_ending']}: {p['reason']}"


def _say_observed(p: _Payload) -> str:
    return f"{p['observation']}{' (final)' if p['final'] else ''} after {p['kind']} {p['action_id']}: {p['text']}"


def _say_conflict(p: _Payload) -> str:
    return f"{p['kind']} {p['action_id']}: {p['reason']}"


def _say_state(p: _Payload) -> str:
    late = ", seen late" if p.get("observed_late") else ""
    return f"{p['power_state']}{late}: {p['reason']}"


def _say_claimed(p: _Payload) -> str:
    return f"runs on both {p['hosts'][0]} and {p['hosts'][1]}"


def _say_diagnostics(p: _Payload) -> str:
    return f"collected for {p['action_id']}"


def _say_host_dump(p: _Payload) -> str:
    return f"{p['path']}, {p['bytes']} bytes in {p['duration']:.1f} s"


def _say_code(p: _Payload) -> str:
    return f"{p['code']}: {p['reason']}"


def _say_black_box(p: _Payload) -> str:
    return f"{p['black_box_id']} after {p['cause']}: {', '.join(part['name'] for part in p['parts'])}"


def _say_fired(p: _Payload) -> str:
    return f"{p.get('model') or 'a watchdog'} was not fed: {p.get('expiry_action') or p['driver_word']}"


def _say_outcome(p: _Payload) -> str:
    return f"{p['result']}: {p['text']}"


def _say_changed(p: _Payload) -> str:
    return f"{_name_device(p['watchdog']['configured'])} after {p['action_id']}"


def _say_drifted(p: _Payload) -> str:
    return f"{_name_device(p['found']['configured'])} was found, {_name_device(p.get('wanted'))} was set"


def _name_device(device: _Payload | None) -> str:
    return "no watchdog" if device is None else f"{device['model']} with {device['expiry_action']}"


def _say_agent(p: _Payload) -> str:
    return f"release {p.get('release') or 'unknown'}, journal {p['journal_id']}: {p['reason']}"


def _say_refusals(p: _Payload) -> str:
    return f"{p['count']} since {p['since']}: {', '.join(f'{count} {reason}' for reason, count in p['reasons'].items())}"


def _say_missed(p: _Payload) -> str:
    return f"{p['count']} of the hypervisor's events since {p['since']} could not be kept"


def _say_lost(p: _Payload) -> str:
    last = "the end" if p["last"] == _OPEN_END else p["last"]
    return f"{p['first']} to {last} of journal {p['lost_epoch']}: {p['reason']}"


_STATES = ("started", "stopped", "paused", "resumed", "suspended", "rebooted", "panicked", "crash_kernel_started")
_SENTENCES: dict[str, Callable[[_Payload], str]] = {
    "action.received": _say_received,
    "action.started": _say_started,
    "action.ended": _say_ended,
    "action.revised": _say_revised,
    "action.observed": _say_observed,
    "action.id_conflict": _say_conflict,
    **{f"server.{state}": _say_state for state in _STATES},
    "server.claimed_twice": _say_claimed,
    "server.diagnostics": _say_diagnostics,
    "server.host_dump": _say_host_dump,
    "server.host_dump_failed": _say_code,
    "server.black_box": _say_black_box,
    "server.watchdog.fired": _say_fired,
    "server.watchdog.outcome": _say_outcome,
    "server.watchdog.changed": _say_changed,
    "server.watchdog.drifted": _say_drifted,
    "agent.up": _say_agent,
    "agent.down": _say_agent,
    "agent.cast_refused": _say_refusals,
    "agent.events_missed": _say_missed,
    "events.lost": _say_lost,
}
KNOWN_TYPES = frozenset(_SENTENCES)
