"""What ``sushy-emulator`` has not: a log, a watchdog timer and the time of the last reset, in front of its own application.

Everything else is the emulator's, which is nobody's of ours. What this adds is ours, written after the standard: it shows that these reach
the driver through a real server with TLS and passwords, and not that a vendor's BMC keeps them in this way.

Run as a program in the emulator's place; a test changes what it shows through :class:`ExtraFiles` in the directory ``EXTRAS``. When a guest
panics it writes the record that Linux writes into a real BMC's log through IPMI.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_TIMER = "HostWatchdogTimer"
_NO_TIMER = {"FunctionEnabled": False, "TimeoutAction": "None", "WarningAction": "None", "Status": {"State": "Disabled"}}


class ExtraFiles:
    """What is added of one machine, in files that the test and the emulator share; each is written by one of them at a time."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "log.json"
        self._timer = directory / "timer.json"
        self._reset = directory / "reset.json"

    def list_entries(self) -> list[dict[str, Any]]:
        return self._read(self._log, [])

    def add_entry(self, sensor: str, message: str) -> None:
        entries = self.list_entries()
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"Id": str(len(entries) + 1), "EntryType": "SEL", "EntryCode": "Assert", "SensorType": sensor, "Message": message}
        self._write(self._log, [*entries, entry | {"Created": created, "Severity": "Critical"}])

    def get_timer(self) -> dict[str, Any]:
        return self._read(self._timer, _NO_TIMER)

    def set_timer(self, **changes: Any) -> None:
        timer = self.get_timer() | changes
        self._write(self._timer, timer | {"Status": {"State": "Enabled" if timer["FunctionEnabled"] else "Disabled"}})

    def note_reset(self) -> None:
        self._write(self._reset, datetime.now(UTC).isoformat())

    def find_last_reset(self) -> str | None:
        found: str | None = self._read(self._reset, None)
        return found

    def _read(self, path: Path, otherwise: Any) -> Any:
        return json.loads(path.read_text()) if path.exists() else otherwise

    def _write(self, path: Path, content: Any) -> None:
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(content))
        partial.replace(path)


class Extras:
    """WSGI middleware: answers for log and timer itself, and adds them to the system that the emulator describes."""

    def __init__(self, application: Application, files: ExtraFiles, panicked: Callable[[], object]) -> None:
        self._application = application
        self._files = files
        self._panicked = panicked
        self._noted: object = None
        self._lock = threading.Lock()

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"].rstrip("/")
        kind = path.removeprefix("/redfish/v1/Systems/").partition("/")[2]
        if path.count("/") == 4 and path.startswith("/redfish/v1/Systems/"):
            return self._serve_system(path, environment, start_response)
        answer = self._find_document(path, kind)
        if answer is None:
            return self._application(environment, start_response)
        return _reply(start_response, answer)

    def _serve_system(self, path: str, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] == "PATCH":
            change = json.loads(environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"])))
            self._files.set_timer(**change[_TIMER])
            return _reply(start_response, {})
        said: list[Any] = []
        body = b"".join(self._application(environment, lambda *status: said.extend(status)))
        if not said[0].startswith("200"):
            start_response(*said)
            return [body]
        added = {
            "LogServices": {"@odata.id": f"{path}/LogServices"},
            "LastResetTime": self._files.find_last_reset(),
            _TIMER: self._files.get_timer(),
        }
        return _reply(start_response, json.loads(body) | added)

    def _find_document(self, path: str, kind: str) -> dict[str, Any] | None:
        if kind == "LogServices":
            return {"Members": [{"@odata.id": f"{path}/SEL"}]}
        if kind == "LogServices/SEL":
            now = datetime.now(UTC).isoformat(timespec="seconds")
            return {"Id": "SEL", "LogEntryType": "SEL", "DateTime": now, "Entries": {"@odata.id": f"{path}/Entries"}}
        if kind == "LogServices/SEL/Entries":
            return {"Members": self._list_entries()}
        return None

    def _list_entries(self) -> list[dict[str, Any]]:
        with self._lock:
            panicked = self._panicked()
            if panicked is not None and panicked != self._noted:
                self._noted = panicked
                self._files.add_entry("OS Stop/Shutdown", "Run-time critical stop")
            return self._files.list_entries()


def _reply(start_response: Callable[..., Any], document: dict[str, Any]) -> list[bytes]:
    body = json.dumps(document).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def main() -> int:
    """The emulator's main program, with the extras behind its own authentication."""
    import libvirt
    from sushy_tools.emulator import main as emulator

    def find_panicked_run() -> int | None:
        """libvirt's number of the run in which the guest has panicked; another at each start."""
        config = emulator.app.config
        connection = libvirt.open(config["SUSHY_EMULATOR_LIBVIRT_URI"])
        try:
            domain = connection.lookupByUUIDString(config["SUSHY_EMULATOR_ALLOWED_INSTANCES"][0])
            number: int = domain.ID()
            return number if domain.state()[0] == libvirt.VIR_DOMAIN_CRASHED else None
        finally:
            connection.close()

    emulator.app.wsgi_app = Extras(emulator.app.wsgi_app, ExtraFiles(Path(os.environ["EXTRAS"])), find_panicked_run)
    status: int = emulator.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
