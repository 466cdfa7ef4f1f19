"""A small BMC that speaks Redfish over TLS, for unit tests: its documents are a test's to change, and it answers as badly as it is told.

It is written after the standard and not by anybody who makes BMCs: what only real ones do is shown over ``sushy-emulator``.
"""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

USERNAME, PASSWORD = "operator", "s3cret-päss"
SYSTEM = "/redfish/v1/Systems/1"
MANAGER = "/redfish/v1/Managers/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
SESSIONS = "/redfish/v1/SessionService/Sessions"
ENTRIES = f"{SYSTEM}/LogServices/SEL/Entries"


def refer(*paths: str) -> list[dict[str, str]]:
    return [{"@odata.id": path} for path in paths]


def make_documents() -> dict[str, Any]:
    """A machine that is on, with a log and a watchdog timer."""
    return {
        "/redfish/v1/": {"Systems": {"@odata.id": "/redfish/v1/Systems"}},
        "/redfish/v1/Systems": {"Members": refer(SYSTEM), "Members@odata.count": 1},
        SYSTEM: {
            "Id": "1",
            "PowerState": "On",
            "BiosVersion": "1.2.3",
            "LastResetTime": "2026-05-04T03:02:01+02:00",
            "Status": {"Health": "OK", "HealthRollup": "Warning"},
            "ProcessorSummary": {"Count": 2, "LogicalProcessorCount": 96},
            "MemorySummary": {"TotalSystemMemoryGiB": 0.5},
            "HostWatchdogTimer": {
                "FunctionEnabled": False,
                "TimeoutAction": "None",
                "WarningAction": "None",
                "Status": {"State": "Disabled"},
            },
            "EthernetInterfaces": {"@odata.id": f"{SYSTEM}/EthernetInterfaces"},
            "Storage": {"@odata.id": f"{SYSTEM}/Storage"},
            "LogServices": {"@odata.id": f"{SYSTEM}/LogServices"},
            "Links": {"Chassis": refer("/redfish/v1/Chassis/1"), "ManagedBy": refer(MANAGER)},
            "Actions": {"#ComputerSystem.Reset": {"target": RESET, "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "Nmi"]}},
        },
        f"{SYSTEM}/EthernetInterfaces": {"Members": refer(f"{SYSTEM}/EthernetInterfaces/eth0")},
        f"{SYSTEM}/EthernetInterfaces/eth0": {"Id": "eth0", "MACAddress": "52-54-00-AB-CD-EF"},
        f"{SYSTEM}/Storage": {"Members": refer(f"{SYSTEM}/Storage/A")},
        f"{SYSTEM}/Storage/A": {"Drives": refer(f"{SYSTEM}/Storage/A/Drives/nvme0", f"{SYSTEM}/Storage/A/Drives/nvme1")},
        MANAGER: {"FirmwareVersion": "7.10", "DateTime": "2026-05-05T00:00:00Z"},
        "/redfish/v1/Chassis/1": {
            "Thermal": {"@odata.id": "/redfish/v1/Chassis/1/Thermal"},
            "Power": {"@odata.id": "/redfish/v1/Chassis/1/Power"},
        },
        "/redfish/v1/Chassis/1/Thermal": {
            "Temperatures": [{"Name": "CPU", "ReadingCelsius": 41, "Status": {"Health": "OK"}}],
            "Fans": [{"Name": "Fan 1", "Reading": 2100, "ReadingUnits": "RPM"}],
        },
        "/redfish/v1/Chassis/1/Power": {
            "PowerControl": [{"PowerConsumedWatts": 312.5}],
            "Voltages": [{"Name": "12V", "ReadingVolts": 12.1}],
        },
        f"{SYSTEM}/LogServices": {"Members": refer(f"{SYSTEM}/LogServices/SEL")},
        f"{SYSTEM}/LogServices/SEL": {"Id": "SEL", "LogEntryType": "SEL", "Entries": {"@odata.id": ENTRIES}},
    }


@dataclass
class SmallLog:
    """Entries, oldest first, and how they are listed: so many on a page, the newest first, and with ``$skip`` or without."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    page: int = 50
    newest_first: bool = False
    knows_skip: bool = True

    def list(self, path: str, skip: int, continued: bool) -> dict[str, Any]:
        listed = list(reversed(self.entries)) if self.newest_first else list(self.entries)
        if skip and not self.knows_skip and not continued:
            skip = 0
        found = listed[skip : skip + self.page]
        answer: dict[str, Any] = {"Members": found, "Members@odata.count": len(listed)}
        if skip + len(found) < len(listed):
            answer["Members@odata.nextLink"] = f"{path}?$skip={skip + len(found)}&continued=1"
        return answer


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


Answering = Callable[["Handler"], None]


class SmallBmc:
    """``documents`` by path, ``answering`` in place of them by (method, path); ``asked``: everything that came, in order."""

    def __init__(self) -> None:
        self.documents = make_documents()
        self.log = SmallLog()
        self.answering: dict[tuple[str, str], Answering] = {}
        self.asked: list[Asked] = []
        self.tokens: set[str] | None = None
        self.etag = 1
        self.port = 0

    def keep_sessions(self) -> None:
        """From now on it makes sessions, and says so."""
        self.tokens = set()
        self.documents["/redfish/v1/"]["Links"] = {"Sessions": {"@odata.id": SESSIONS}}

    def count(self, method: str, path: str) -> int:
        return sum((asked.method, asked.path) == (method, path) for asked in list(self.asked))


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bmc: SmallBmc

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test reads what was asked, not a log."""

    def send(self, status: int, body: Any = None, **headers: str) -> None:
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, key: str, message: str) -> None:
        self.send(status, {"error": {"@Message.ExtendedInfo": [{"MessageId": f"Base.1.8.{key}", "Message": message}]}})

    def cut(self) -> None:
        """End the connection here and now."""
        self.close_connection = True
        self.connection.close()

    def stop_listening(self) -> None:
        """From now on nobody else gets a connection."""
        assert isinstance(self.server, HTTPServer)
        self.server.socket.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = urlsplit(self.path).path
        self.bmc.asked.append(Asked(self.command, self.path, body, dict(self.headers)))
        answering = self.bmc.answering.get((self.command, path))
        if answering is not None:
            answering(self)
        elif path == SESSIONS and self.command == "POST" and self.bmc.tokens is not None:
            self._make_session(body)
        elif path != "/redfish/v1/" and not self._is_allowed():
            self.refuse(401, "NoValidSession", f"There is no valid session; {PASSWORD} was given")
        else:
            self._serve(path, body)

    def _serve(self, path: str, body: Any) -> None:
        bmc = self.bmc
        if self.command == "GET" and path == ENTRIES:
            query = parse_qs(urlsplit(self.path).query)
            self.send(200, bmc.log.list(path, int(query.get("$skip", ["0"])[0]), "continued" in query))
        elif self.command == "GET" and path in bmc.documents:
            self.send(200, bmc.documents[path], ETag=f'"{bmc.etag}"')
        elif self.command == "PATCH" and path in bmc.documents:
            if self.headers.get("If-Match") not in (None, f'"{bmc.etag}"'):
                self.refuse(412, "PreconditionFailed", "It was changed meanwhile")
                return
            bmc.etag += 1
            for key, value in body.items():
                bmc.documents[path][key] |= value
            self.send(200, bmc.documents[path])
        elif (self.command == "POST" and path == RESET) or self.command == "DELETE":
            self.send(204)
        else:
            self.refuse(404, "ResourceMissingAtURI", f"The resource at the URI {path} was not found.")

    def _make_session(self, body: Any) -> None:
        assert self.bmc.tokens is not None
        if body != {"UserName": USERNAME, "Password": PASSWORD}:
            self.refuse(401, "ResourceAtUriUnauthorized", "The user name or password is wrong")
            return
        token = f"token-{len(self.bmc.asked)}"
        self.bmc.tokens.add(token)
        self.send(201, {}, X_Auth_Token=token, Location=f"https://elsewhere.example{SESSIONS}/{token}")

    def _is_allowed(self) -> bool:
        if self.bmc.tokens is not None:
            return self.headers.get("X-Auth-Token") in self.bmc.tokens
        expected = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or a handler that cut it off: both are what tests are about."""


@contextmanager
def serving(authority: trustme.CA) -> Iterator[SmallBmc]:
    """A BMC on a free port of 127.0.0.1."""
    bmc = SmallBmc()
    handler = type("BoundHandler", (Handler,), {"bmc": bmc})
    server = _Server(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    bmc.port = server.server_address[1]
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield bmc
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
