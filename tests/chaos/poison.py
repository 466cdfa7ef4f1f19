"""What does not belong into a queue, layer by layer: no JSON, no envelope, no event, no request, and what looks like one and lies."""

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_DEEP = 5000
_LONG = 1 << 19
_NO_TEXT = "DecodeError: 'utf-8' codec can't decode byte 0xff"
_NO_JSON = "JSONDecodeError: (Expecting value|Extra data)|kombu.exceptions.DecodeError: Expecting value"
_NO_METHOD = "attribute name must be string, not 'NoneType'"
_NOTHING = "(?!)"
"""It is refused with one line, as what comes unsigned is."""


@dataclass(frozen=True)
class Poisonous:
    """One message. ``message_id`` is that of the event inside, if there is one that can be read; ``says`` a pattern of what oslo.messaging
    logs of it with a traceback, where it comes into a queue of requests."""

    body: bytes
    says: str
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
        Poisonous(b"\xff\xfe\x00" + unique.encode(), _NO_TEXT),
        Poisonous(b"\xff\xfe\x01" + unique.encode(), _NO_TEXT, content_encoding="binary"),
        Poisonous(f"no json {unique}".encode(), _NO_JSON),
        Poisonous(f'["a list", "{unique}"]'.encode(), "dictionary update sequence element #0 has length 6"),
        Poisonous(json.dumps({"oslo.version": "2.0", "unique": unique}).encode(), _NO_METHOD),
        Poisonous(json.dumps({"oslo.version": "2.0", "oslo.message": f"no json {unique}"}).encode(), _NO_JSON),
        Poisonous(
            json.dumps({"oslo.version": "9.9", "oslo.message": json.dumps({"message_id": unique})}).encode(),
            "UnsupportedRpcEnvelopeVersion: Specified RPC envelope version, 9.9",
        ),
        Poisonous(
            json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps([unique])}).encode(),
            "dictionary update sequence element #0 has length 32",
        ),
        Poisonous((b'{"a":' * _DEEP) + f'"{unique}"'.encode() + b"}" * _DEEP, "maximum recursion depth exceeded"),
        Poisonous(json.dumps({"oslo.version": "2.0", "oslo.message": unique * (_LONG // 32)}).encode(), _NO_JSON),
        _make_request(unique, "no_such_method", {}, "NoSuchMethod: Endpoint does not support RPC method no_such_method"),
        _make_request(unique, "trigger_crash_dump", {"action": {"id": unique}}, _NOTHING),
        _make_request(unique, "trigger_crash_dump", {"unexpected": unique}, _NOTHING),
        _make_request(unique, "ping", {}, "UnsupportedVersion: Endpoint does not support RPC version 77.0", version="77.0"),
        Poisonous(event, _NO_METHOD, readable),
        Poisonous(lying, _NO_METHOD, f"{readable}-lie"),
        Poisonous(f"encoded {unique}".encode(), "unknown encoding: no-such-encoding", None, "application/x-strange", "no-such-encoding"),
        Poisonous(f"compressed {unique}".encode(), _NO_JSON, headers={"compression": "application/x-gzip"}),
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


def _make_request(unique: str, method: str, arguments: dict[str, Any], says: str, version: str = "1.0") -> Poisonous:
    message = {"method": method, "args": arguments, "version": version, "_unique_id": f"{unique}-{method}-{version}", "_context": {}}
    body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()
    return Poisonous(body, rf"{says}|Found duplicate message\(\w+-{method}-{version}\)")  # when it comes for a second time
