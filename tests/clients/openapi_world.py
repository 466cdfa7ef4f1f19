"""What requests made from the OpenAPI document meet: the application over the fleet that the HTTP cases have, fresh each time."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from falcon import testing

from api_gateway.config import load_config
from api_gateway.store import Store
from api_gateway.wsgi import create_app
from compute_agent.contract.clock import SystemClock
from tests.http import fleet
from tests.http.answering_agents import AnsweringAgents
from tests.http.application import AUTHORITY, Application, create_application
from tests.unit.gateway.auth_parts import create_basic_application

SERVERS = tuple(sorted(value for value in fleet.IDS.values() if not value.startswith("req-")))
ACTIONS = tuple(sorted(value for value in fleet.IDS.values() if value.startswith("req-")))

CALLERS: tuple[dict[str, str], ...] = (
    {},
    {"X-Roles": "member", "X-Project-Id": fleet.PROJECT},
    {"X-Roles": "reader", "X-Project-Id": fleet.PROJECT},
    {"X-Roles": "member", "X-Project-Id": fleet.OTHER_PROJECT},
    {"X-Roles": "", "X-User-Id": "stranger"},
)
"""Without a word an admin; members and readers of the fleet's project, members of another one, and somebody without a role."""


class World:
    """Makes applications over copies of one provisioned store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        template = directory / "template"
        template.mkdir()
        create_application(template).close()
        self._template = template / "gateway.sqlite"

    @contextmanager
    def open(self, *, strategy: str = "none", **options: Any) -> Iterator[Application]:
        """``strategy``: its authentication; Keystone is away then. ``options`` set further options of the group ``[api]``."""
        self._count += 1
        directory = self._directory / str(self._count)
        directory.mkdir()
        shutil.copy(self._template, directory / "gateway.sqlite")
        with socket.socket() as refusing:
            refusing.bind(("127.0.0.1", 0))  # and does not listen: nobody else gets the port meanwhile
            without_keystone = partial(_create_without_keystone, url=f"http://127.0.0.1:{refusing.getsockname()[1]}")
            create = {"none": create_application, "http_basic": create_basic_application, "keystone": without_keystone}[strategy]
            # Nobody waits for what no agent will end.
            application = create(directory, fleet=False, long_poll_limit=0, **options)
            try:
                yield application
            finally:
                application.close()
                shutil.rmtree(directory)


def _create_without_keystone(directory: Path, *, url: str, fleet: bool, long_poll_limit: int) -> Application:
    """An application under ``keystone`` whose Keystone refuses connections at ``url``."""
    (directory / "api.conf").write_text(
        f"[api]\nauth_strategy = keystone\nlong_poll_limit = {long_poll_limit}\n"
        f"[keystone_authtoken]\nauth_type = none\nendpoint = {url}\nwww_authenticate_uri = {url}\nhttp_request_max_retries = 0\n"
    )
    store, clock = Store(f"sqlite:///{directory / 'gateway.sqlite'}"), SystemClock()
    app = create_app(load_config([], config_files=[str(directory / "api.conf")]), store=store, clock=clock)
    return Application(app, store, clock, testing.TestClient(app, headers={"Host": AUTHORITY}), AnsweringAgents(clock))
