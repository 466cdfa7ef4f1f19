"""What the YAML cases stand on: each file begins with a fresh application over a fresh fleet, whose ids are in ``$ENVIRON``.

Whatever a case expects, an answer that is not as the OpenAPI document says fails it.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from gabbi.fixture import GabbiFixture

from compute_agent.contract.clock import SystemClock
from tests.http.application import Application, create_application
from tests.http.described import list_deviations, read_version
from tests.http.fleet import EVENTS, IDS, add_open_actions


class Fleet(GabbiFixture):
    """The application that answers while a file's cases run."""

    current: Application | None = None

    def start_fixture(self) -> None:
        # It removes itself also when the run ends without stop_fixture, after a failed set-up say.
        self._directory = tempfile.TemporaryDirectory(prefix="crashcart-http-")
        Fleet.current = create_application(Path(self._directory.name))
        os.environ.update(IDS | EVENTS)

    def stop_fixture(self) -> None:
        if Fleet.current is not None:
            Fleet.current.close()
            Fleet.current = None
        self._directory.cleanup()
        for name in IDS | EVENTS:
            os.environ.pop(name, None)


class OpenActions(Fleet):
    """The same, while something is under way."""

    def start_fixture(self) -> None:
        super().start_fixture()
        assert Fleet.current is not None
        add_open_actions(Fleet.current.store, SystemClock())


def answer(environ: dict[str, Any], start_response: Any) -> Any:
    """The WSGI application: that of the fixture which is running."""
    assert Fleet.current is not None, "a file of cases must name the fixture Fleet"
    started: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
        started[:] = [int(status.partition(" ")[0]), headers]
        return start_response(status, headers, error)

    body = b"".join(Fleet.current.app(environ, start))
    asked = {name.removeprefix("HTTP_").replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    deviations = list_deviations(environ["REQUEST_METHOD"], environ["PATH_INFO"], read_version(asked), started[0], started[1], body)
    assert not deviations, deviations
    return [body]
