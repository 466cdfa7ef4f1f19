"""Reads a folder of golden samples with the code of a release and prints which ones, as JSON; run by that release's own interpreter.

What cannot be read ends it with a traceback.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from compute_agent.contract import notifications
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.models import ActionRequest, BlackBoxChunk, EventRange, Heartbeat, PingReply
from compute_agent.contract.wire import WireModel
from compute_agent.endpoint import Endpoint

REPLIES: dict[str, type[WireModel]] = {"ping": PingReply, "get_diagnostics": DiagnosticsReply, "get_black_box": BlackBoxChunk}
ARGUMENTS: dict[str, type[WireModel]] = {"action": ActionRequest, "events": EventRange}


def read_message(message: dict[str, Any]) -> None:
    """As the agent's server does: the version first, then the arguments."""
    spoken, needed = ([int(part) for part in version.split(".")] for version in (Endpoint.target.version, message["version"]))
    assert spoken[0] == needed[0], f"{message['method']} needs {message['version']}"
    assert spoken >= needed, f"{message['method']} needs {message['version']}"
    inspect.signature(getattr(Endpoint, message["method"])).bind(None, {}, **message["args"])
    for name, value in message["args"].items():
        if name in ARGUMENTS:
            ARGUMENTS[name].from_wire(value)


def read_event(envelope: dict[str, Any]) -> None:
    """As recorders and consumers do."""
    notification = notifications.decode(json.dumps({**envelope, "oslo.message": json.dumps(envelope["oslo.message"])}))
    if notification.event_type == notifications.HEARTBEAT_TYPE:
        Heartbeat.from_wire(notification.payload)
    elif notification.event_type in EVENT_TYPES:
        EVENT_TYPES[notification.event_type].payload.from_wire(notification.payload)


def main(folder: Path) -> None:
    read: list[str] = []
    for path in sorted(folder.rglob("*.json")):
        sample = json.loads(path.read_text())
        if path.parent.name == "events":
            read_event(sample)
        elif path.name.endswith(".reply.json"):
            REPLIES[path.name.removesuffix(".reply.json")].from_wire(sample)
        elif "message" in sample:
            read_message(sample["message"])
        else:
            continue
        read.append(str(path.relative_to(folder)))
    print(json.dumps(read))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
