"""The clients at a gateway under ``auth_strategy = none``, with what ``devstack/up`` writes for a shell and nothing else."""

import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

from devstack.api_client import ApiClient
from devstack.ports import Ports, find_free_base
from devstack.services import Service
from tests.clients.clients import Clients
from tests.clients.system import OWN, System, wait_asked

_READY_SECONDS = 30.0


@pytest.fixture(scope="module")
def url(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second API over the store of the system, for whoever is on this machine."""
    directory, ports = tmp_path_factory.mktemp("without-keystone"), Ports(find_free_base())
    conf = RawConfigParser()
    conf.read(system.stack.state_dir / "gateway.conf")
    conf["api"].update({"listen_port": str(ports.api), "auth_strategy": "none", "default_project": system.projects[OWN]})
    with (directory / "gateway.conf").open("w") as file:
        conf.write(file)
    command = str(Path(sys.executable).parent / "crashcart-api")
    service = Service("crashcart-api", [command, "--config-file", str(directory / "gateway.conf")], log=directory / "api.log")
    url = f"http://127.0.0.1:{ports.api}"
    service.start()
    try:
        service.wait_ready(ApiClient(url).is_healthy, _READY_SECONDS, "GET /healthcheck answers 200")
        wait_asked(ApiClient(url), system.surviving[0])
        yield url
    finally:
        service.stop()


def _make_environment(url: str, client: str) -> dict[str, str]:
    """The one refuses a project or user with auth type none, the other insists on them."""
    environ = {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": f"{url}/v2.1"}
    if client == "nova":
        environ |= {"OS_PROJECT_NAME": OWN, "OS_USERNAME": OWN, "OS_AUTH_URL": url}
    return environ


@pytest.mark.parametrize(
    "argv",
    [
        ("nova", "trigger-crash-dump"),
        ("nova", "show"),
        ("nova", "diagnostics"),
        ("nova", "instance-action-list"),
        ("openstack", "server", "dump", "create"),
        ("openstack", "server", "show", "--diagnostics"),
        ("openstack", "server", "event", "list"),
        ("openstack", "server", "lock"),
        ("openstack", "server", "unlock"),
    ],
    ids=" ".join,
)
def test_commands_work_without_a_keystone(system: System, clients: Clients, url: str, argv: tuple[str, ...]) -> None:
    server = system.surviving[6]
    before = system.count_signals(server.id)
    clients.run(_make_environment(url, argv[0]), *argv, server.id if argv[0] == "nova" else server.name).expect()
    if "dump" in " ".join(argv):
        answer = system.ask("admin", "GET", f"/v2.1/servers/{server.id}/os-instance-actions")
        assert system.wait_ended(answer.body["instanceActions"][0]["request_id"]) == "succeeded"
        assert system.count_signals(server.id) == before + 1
