"""A small Identity service on loopback: versions, one service user's login, and the validation of the tokens it was given."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def build_token(*roles: str, user: str = "u-alice", project: str | None = "demo", **more: Any) -> dict[str, Any]:
    """What Keystone says of a token. ``project`` None: the token is scoped to nothing."""
    now = datetime.now(UTC)
    token: dict[str, Any] = {
        "methods": ["password"],
        "user": {"id": user, "name": "Alice", "domain": {"id": "d-users", "name": "Users"}},
        "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "expires_at": (now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "audit_ids": ["abc"],
    }
    if project is not None:
        token["project"] = {"id": project, "name": project, "domain": {"id": "d-projects", "name": "Projects"}}
    if roles:
        token["roles"] = [{"id": f"r-{number}", "name": role} for number, role in enumerate(roles)]
    return {**token, **more}


class SmallKeystone:
    """``tokens`` maps a token's id to what :func:`build_token` made; ``validations`` counts how often it was asked for one.

    ``broken``: answers every question with 500.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.validations = 0
        self.broken = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._build_handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Frees the port: from here on connections are refused."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Any) -> tuple[int, dict[str, str], Any]:
        if self.broken:
            return 500, {}, {"error": {"code": 500, "message": "broken"}}
        if path.rstrip("/") in ("", "/v3"):
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{self.url}/v3/"}], "media-types": []}
            return (200, {}, {"version": version}) if path.startswith("/v3") else (300, {}, {"versions": {"values": [version]}})
        if method == "POST" and path == "/v3/auth/tokens":
            endpoint = {"id": "e", "interface": "internal", "region": "R", "region_id": "R", "url": self.url}
            catalog = [{"type": "identity", "name": "keystone", "id": "s", "endpoints": [endpoint]}]
            return 201, {"X-Subject-Token": "service-token"}, {"token": build_token("service", user="u-service", catalog=catalog)}
        if method == "GET" and path.startswith("/v3/auth/tokens"):
            self.validations += 1
            token = self.tokens.get(headers.get("X-Subject-Token", ""))
            if token is not None:
                return 200, {"X-Subject-Token": headers["X-Subject-Token"]}, {"token": token}
        return 404, {}, {"error": {"code": 404, "message": "not found"}}

    def _build_handler(keystone) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, headers, body = keystone.answer(self.command, self.path, self.headers)
                raw = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = respond

            def log_message(self, *_: Any) -> None:
                """The tests' output is for the tests."""

        return Handler
