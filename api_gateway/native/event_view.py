"""An event as ``/v1``, its stream and its subscribers are shown it, less what they may not see.

What is withheld is said in words: HOSTS, and the types whose payload is for some only. A stream or a subscription carries those that are
*not* withheld from its reader (find_shown): a word that a later release adds is then withheld from all who are there already.
"""

from collections.abc import Collection
from typing import Any

from api_gateway.identity import Identity, is_permitted
from api_gateway.native.times import format_time
from api_gateway.store.events import EventRow
from compute_agent.contract.events import EVENT_TYPES

HOSTS = "hosts"
"""On which host a server is, and what tells one host's events from another's."""
RULE_OF_HOSTS = "os_compute_api:os-extended-server-attributes"
RULE_OF_RESULT: dict[str, str] = {
    "server.diagnostics": "crashcart:diagnostics:show",
    "server.host_dump": "crashcart:actions:take_host_dump",
    "server.black_box": "crashcart:black_box:show",
}
"""What lets one see what an event of each of these types says; everything else is for whoever sees the event."""
_RULES = {HOSTS: RULE_OF_HOSTS, **RULE_OF_RESULT}

_FIELDS_OF_HOSTS = frozenset({"host", "hosts", "epoch", "sequence"})
"""Fields of payloads of any type that are withheld with HOSTS. Sequences of one journal would say what else happens there."""
_PATH = "dump_path"
"""The file of a watchdog's dump, which is a dump of the host's as any other."""


def is_visible(row: EventRow, identity: Identity) -> bool:
    """An admin sees all events, everybody else those of their own project's servers."""
    return identity.is_admin or row.project == identity.project


def find_withheld(identity: Identity, project: str | None) -> frozenset[str]:
    """What ``identity`` may not see of events of ``project``; None: of anybody's, for which being in some project is not enough."""
    return frozenset(word for word, rule in _RULES.items() if not is_permitted(identity, rule, project or ""))


def find_shown(withheld: Collection[str]) -> frozenset[str]:
    """What is not withheld, of all that can be; and the other way round."""
    return frozenset(_RULES.keys() - set(withheld))


def view_event(row: EventRow, withheld: Collection[str]) -> dict[str, Any]:
    """``payload`` is None where it is not for this reader: for those who may not see hosts also that of types which this release does not
    know, as any field of theirs may name one."""
    view = {
        "id": row.message_id,
        "position": row.position,
        "type": row.event_type,
        "severity": row.severity,
        "server": row.server,
        "project": row.project,
        "action_id": row.action_id,
        "occurred_at": format_time(row.occurred_at),
        "recorded_at": format_time(row.recorded_at),
        "payload": _view_payload(row, withheld),
    }
    return view if HOSTS in withheld else view | {"host": row.host}


def _view_payload(row: EventRow, withheld: Collection[str]) -> dict[str, Any] | None:
    if row.event_type in withheld or (HOSTS in withheld and row.event_type not in EVENT_TYPES):
        return None
    payload = row.payload
    if HOSTS in withheld:
        payload = {name: value for name, value in payload.items() if name not in _FIELDS_OF_HOSTS}
    if "server.host_dump" in withheld and isinstance(payload.get(_PATH), str):
        payload = _hide_path(payload, payload[_PATH])
    return payload


def _hide_path(payload: dict[str, Any], path: str) -> dict[str, Any]:
    """Without the field, and without the path in the sentences beside it."""
    return {
        name: value.replace(path, "a file on its host") if isinstance(value, str) and path else value
        for name, value in payload.items()
        if name != _PATH
    }
