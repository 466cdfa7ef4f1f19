"""``crashcart-agent`` whose calls that change a domain's watchdog stand still or fail where a test says so:
``python -m tests.stack.breaking_agent --config-file …``.

``$BREAKS`` is a directory. A file there, named after a server, says in JSON where that one's change breaks; calls are counted from 1 over
the agent's life. One that stands still leaves ``<server>.stands`` there, and is for kill -9 to end.
"""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from compute_agent import service
from tests.unit.agent.libvirt_fakes import make_error


@dataclass(frozen=True)
class Break:
    """``stand_after``: when so many calls have returned; None: never. ``refused``: calls that libvirt refuses. ``unanswered``: calls that
    are made, and libvirt's answer to them is lost."""

    stand_after: int | None = None
    refused: Sequence[int] = ()
    unanswered: Sequence[int] = ()

    def write(self, directory: Path, server: str) -> None:
        (directory / server).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: Path, server: str) -> "Break":
        path = directory / server
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


class Breaks:
    """Counts the calls of each server, and breaks them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._calls: Counter[str] = Counter()

    def make(self, server: str, call: Callable[[], Any]) -> Any:
        rule = Break.read(self._directory, server)
        self._stand_if(rule, server)
        self._calls[server] += 1
        number = self._calls[server]
        if number in rule.refused:
            raise make_error(libvirt.VIR_ERR_OPERATION_FAILED, message=f"call {number} is refused")
        answer = call()
        if number in rule.unanswered:
            raise make_error(libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC, f"the answer to call {number} is lost")
        self._stand_if(rule, server)
        return answer

    def _stand_if(self, rule: Break, server: str) -> None:
        if self._calls[server] == rule.stand_after:
            (self._directory / f"{server}.stands").touch()
            threading.Event().wait()


def patch_libvirt(breaks: Breaks) -> None:
    """Every call of the binding that changes a watchdog, or a note of one."""
    for name in ("attachDeviceFlags", "detachDeviceFlags", "setMetadata"):
        setattr(libvirt.virDomain, name, _break_method(breaks, getattr(libvirt.virDomain, name)))
    define, command = libvirt.virConnect.defineXML, libvirt_qemu.qemuMonitorCommand

    def define_broken(connection: libvirt.virConnect, xml: str) -> libvirt.virDomain:
        return breaks.make(ElementTree.fromstring(xml).findtext("uuid", ""), lambda: define(connection, xml))

    def command_broken(domain: libvirt.virDomain, text: str, flags: int) -> str:
        if "watchdog-set-action" not in text:
            return str(command(domain, text, flags))
        return str(breaks.make(domain.UUIDString(), lambda: command(domain, text, flags)))

    libvirt.virConnect.defineXML = define_broken
    libvirt_qemu.qemuMonitorCommand = command_broken


def _break_method(breaks: Breaks, method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda domain, *arguments: breaks.make(domain.UUIDString(), lambda: method(domain, *arguments))


if __name__ == "__main__":
    patch_libvirt(Breaks(Path(os.environ["BREAKS"])))
    sys.exit(service.main())
