"""openstacksdk, as a program uses it, against gateways with several maximum microversions."""

import json
from pathlib import Path

import pytest

from tests.clients.clients import Clients
from tests.clients.system import MAXIMA, System

_SCRIPT = str(Path(__file__).with_name("sdk_script.py"))


@pytest.mark.parametrize("maximum", MAXIMA)
def test_a_program_finds_signals_reads_locks_and_unlocks_a_server(system: System, clients: Clients, maximum: str) -> None:
    server = system.surviving[MAXIMA.index(maximum)]
    before = system.count_signals(server.id)
    told = json.loads(clients.run(system.make_openrc("member", maximum), _SCRIPT, server.id).expect().stdout)
    assert told["found"] == server.id
    assert server.id in told["listed"]
    assert told["status"] == "ACTIVE"
    assert told["shown"] == {"action": "trigger_crash_dump", "request_id": told["action"], "server": server.id}
    assert (told["locked"], told["unlocked"]) == (True, False)
    assert told["diagnostics"] == "Policy doesn't allow os_compute_api:os-server-diagnostics to be performed."
    assert system.wait_ended(told["action"]) == "succeeded"
    assert system.count_signals(server.id) == before + 1


def test_an_admins_program_reads_diagnostics(system: System, clients: Clients) -> None:
    server = system.surviving[10]
    told = json.loads(clients.run(system.make_openrc("admin"), _SCRIPT, server.id).expect().stdout)
    assert told["diagnostics"] == {"state": "running", "driver": "libvirt", "num_cpus": 1}
