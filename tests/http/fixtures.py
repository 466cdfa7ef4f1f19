"""What the YAML cases stand on: each file begins with a fresh application over a fresh fleet, whose ids are in ``$ENVIRON``."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gabbi.fixture import GabbiFixture

from tests.http.application import Application, create_application
from tests.http.fleet import IDS


class Fleet(GabbiFixture):
    """The application that answers while a file's cases run."""

    current: Application | None = None

    def start_fixture(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="crashcart-http-"))
        Fleet.current = create_application(self._directory)
        os.environ.update(IDS)

    def stop_fixture(self) -> None:
        if Fleet.current is not None:
            Fleet.current.close()
            Fleet.current = None
        shutil.rmtree(self._directory)
        for name in IDS:
            os.environ.pop(name, None)


def answer(environ: dict[str, Any], start_response: Any) -> Any:
    """The WSGI application: that of the fixture which is running."""
    assert Fleet.current is not None, "a file of cases must name the fixture Fleet"
    return Fleet.current.app(environ, start_response)
