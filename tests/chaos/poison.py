"""What does not belong into a queue, layer by layer: no JSON, no envelope, no event, no request, and what looks like one and lies."""

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_DEEP = 5000
_LONG = 1 << 19


@dataclass(frozen=True)
class Poisonous:
    """One message. ``message_id`` is that of the event inside, if there is one that can be read."""

    body: bytes
    message_id: str | None = None
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    headers: dict[str, Any] = field(default_factory=dict)


def list_poisons(chance: random.Random, hosts: Sequence[str]) -> list[Poisonous]:
    """One of each; every body is unique, by which it is known again."""
    unique = uuid.UUID(int=chance.getrandbits(128)).hex
    host = chance.choice(list(hosts))
    readable = f"poison-{unique}"
    event = _write_event(readable, "weather.changed", {"version": "1.0", "host": host, "epoch": unique, "sequence": 1, "server": None})
    lying = _write_event(
        f"{readable}-lie",
        "action.ended",
        {
            "version": "1.0",
            "host": host,
            "epoch": unique,
            "sequence": 2,
            "server": str(uuid.UUID(int=0)),
            "action_id": f"req-{uuid.UUID(int=chance.getrandbits(128))}",
            "ending": "succeeded",
            "code": "signal_delivered",
            "reason": "not true",
            "kind": "trigger_crash_dump",
            "decided_by": "agent",
            "occurred_at": "2026-01-01T00:00:00+00:00",
        },
    )
    return [
        Poisonous(b"\xff\xfe\x00" + unique.encode()),
        Poisonous(b"\xff\xfe\x01" + unique.encode(), content_encoding="binary"),
        Poisonous(f"no json {unique}".encode()),
        Poisonous(f'["a list", "{unique}"]'.encode()),
        Poisonous(json.dumps({"oslo.version": "2.0", "unique": unique}).encode()),
        Poisonous(json.dumps({"oslo.version": "2.0", "oslo.message": f"no json {unique}"}).encode()),
        Poisonous(json.dumps({"oslo.version": "9.9", "oslo.message": json.dumps({"message_id": unique})}).encode()),
        Poisonous(json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps([unique])}).encode()),
        Poisonous((b'{"a":' * _DEEP) + f'"{unique}"'.encode() + b"}" * _DEEP),
        Poisonous(json.dumps({"oslo.version": "2.0", "oslo.message": unique * (_LONG // 32)}).encode()),
        Poisonous(_write_request(unique, "no_such_method", {})),
        Poisonous(_write_request(unique, "trigger_crash_dump", {"action": {"id": unique}})),
        Poisonous(_write_request(unique, "trigger_crash_dump", {"unexpected": unique})),
        Poisonous(_write_request(unique, "ping", {}, version="77.0")),
        Poisonous(event, readable),
        Poisonous(lying, f"{readable}-lie"),
        Poisonous(f"encoded {unique}".encode(), content_type="application/x-strange", content_encoding="no-such-encoding"),
        Poisonous(f"compressed {unique}".encode(), headers={"compression": "application/x-gzip"}),
    ]


def _write_event(message_id: str, event_type: str, payload: dict[str, Any]) -> bytes:
    message = {
        "message_id": message_id,
        "publisher_id": "compute_agent.nobody",
        "event_type": event_type,
        "priority": "INFO",
        "payload": payload,
        "timestamp": "2026-01-01 00:00:00.000000",
        "_unique_id": uuid.uuid4().hex,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def _write_request(unique: str, method: str, arguments: dict[str, Any], version: str = "1.0") -> bytes:
    message = {"method": method, "args": arguments, "version": version, "_unique_id": f"{unique}-{method}-{version}", "_context": {}}
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()
