"""The audit of libraries finds what is weak, and never takes a database that says nothing for one that knows of nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from devstack import checks
from devstack.audit import NotAudited, audit_libraries, list_libraries, list_problems


@contextmanager
def serve(answer: bytes) -> Iterator[str]:
    """A server that gives every question the same answer."""

    class Same(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Same)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("answer", [b"{}", b'{"vulns": []}', b"[]", b"<html>", b""])
def test_what_answers_without_any_advisory_audits_nothing(answer: bytes) -> None:
    with serve(answer) as database, pytest.raises(NotAudited, match=database):
        audit_libraries(database)


def test_a_database_that_is_away_audits_nothing_and_the_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(b"") as database:
        pass
    monkeypatch.setattr(checks, "audit_libraries", lambda: audit_libraries(database))
    result = checks._time_check("libraries", checks._check_libraries)
    assert not result.passed
    assert f"{database} does not answer" in result.skipped


def test_weak_libraries_and_those_that_were_left_out_are_named() -> None:
    weakness = {"id": "GHSA-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}
    answer = {
        "dependencies": [
            {"name": "good", "version": "1", "vulns": []},
            {"name": "weak", "version": "2", "vulns": [weakness, {**weakness, "id": "GHSA-2", "fix_versions": []}]},
            {"name": "unknown", "skip_reason": "Dependency not found"},
        ]
    }
    assert list_problems(json.loads(json.dumps(answer))) == [
        "weak 2: GHSA-1, repaired in: 2.1",
        "weak 2: GHSA-2, repaired in: none yet",
        "unknown: not audited: Dependency not found",
    ]


def test_libraries_are_those_of_the_product_with_what_they_need_themselves_and_no_tools_of_tests() -> None:
    libraries = list_libraries()
    assert {"kombu", "amqp", "pydantic-core", "oslo-messaging"} <= set(libraries)
    assert not {"pytest", "hypothesis", "ruff", "crashcart"} & set(libraries)
