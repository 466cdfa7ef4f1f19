"""A gateway whose maximum microversion is lower than ours, as a client sees one: ours, behind a proxy that knows no later version.

Requests up to that maximum go through unchanged; the version documents advertise it, and what is later is refused as the API refuses what
it does not know.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from api_gateway.microversion import HEADER, LEGACY_HEADER, MAX_VERSION, find_requested
from devstack.api_client import ApiClient

_HOP_HEADERS = {"connection", "content-length", "transfer-encoding", "date", "server"}


class LowerMaximum:
    """Serves until ``close()``; ``asked`` are the versions that the clients sent."""

    def __init__(self, url: str, port: int, maximum: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.asked: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _make_proxy(self, ApiClient(url), maximum))
        # How often it looks whether it shall end, in seconds.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name=f"maximum {maximum}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _make_proxy(owner: LowerMaximum, gateway: ApiClient, maximum: str) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = find_requested(self.headers.get(HEADER), self.headers.get(LEGACY_HEADER))
            if asked is not None:
                owner.asked.add(asked)
            if asked not in (None, "latest") and _read(asked) > _read(maximum):
                fault = {"code": 406, "message": f"Version {asked} is not supported by the API. Minimum is 2.1 and maximum is {maximum}."}
                self.answer(406, {"Content-Type": "application/json"}, json.dumps({"computeFault": fault}))
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
            if asked == "latest":
                headers |= {HEADER: f"compute {maximum}", LEGACY_HEADER: maximum}
            answer = gateway.request(self.command, self.path, body=body or None, headers=headers, timeout=30)
            text = answer.text
            if self.path.strip("/") in ("", "v2.1"):
                text = re.sub(rf'"version": ?"{re.escape(MAX_VERSION)}"', f'"version": "{maximum}"', text)
            self.answer(answer.status, {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}, text)

        do_GET = do_POST = forward

        def answer(self, status: int, headers: dict[str, str], text: str) -> None:
            content = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """What was asked is told by the tests."""

    return Proxy


def _read(version: str | None) -> int:
    return int((version or "2.1").partition(".")[2])
