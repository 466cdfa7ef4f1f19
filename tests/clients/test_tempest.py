"""tempest, OpenStack's own judge of a cloud: its schemas hold every answer at every version, and its tests run unchanged."""

import json
from pathlib import Path

import pytest
import yaml

from api_gateway.microversion import MAX_VERSION, Since
from devstack.keystone import DOMAIN, PASSWORD
from tests.clients.clients import Clients
from tests.clients.system import System

_HERE = Path(__file__).parent
_TEMPESTS_OWN = (2, 3, 6, 8, 9, 16, 19, 26, 45, 47, 48, 51, 54, 57, 58, 62, 63, 70, 71, 73, 75, 79, 80, 84, 89, 96, 97, 98, 99, 100)
"""Versions from which the client has another schema."""


def list_versions() -> list[str]:
    """Every version where something changes, here or in a schema, and the one before it."""
    changes = {*map(int, Since), *_TEMPESTS_OWN}
    minors = changes | {minor - 1 for minor in changes}
    return [f"2.{minor}" for minor in sorted(minors) if 1 <= minor <= int(MAX_VERSION.partition(".")[2])]


@pytest.mark.parametrize("user", ["admin", "member"])
def test_every_answer_at_every_version_is_what_tempests_schemas_demand(system: System, clients: Clients, user: str) -> None:
    running, told = system.surviving[8], system.surviving[9]
    overlay = {"description": "the shop", "tags": ["front", "shop"], "vm_state": "resized", "task_state": None}
    assert system.ask("admin", "PATCH", f"/v1/servers/{told.id}", json.dumps(overlay).encode()).status == 200
    for server, status in ((running, 202), (told, 202)):
        path = f"/v2.1/servers/{server.id}/action"
        answer = system.ask("member", "POST", path, b'{"trigger_crash_dump": null}')
        assert answer.status == status, answer.text
        system.wait_ended(answer.request_id)
    versions = list_versions()
    script = str(_HERE / "tempest_schemas_script.py")
    servers = ",".join((running.id, told.id, system.shut_off.id))
    output = clients.run({}, script, f"{system.stack.url}/v2.1", system.get_token(user), ",".join(versions), servers).expect()
    told_us = json.loads(output.stdout)
    assert told_us["invalid"] == []
    assert told_us["valid"] > 12 * len(versions)


def test_tempests_own_tests_of_diagnostics_and_actions_pass_unchanged(system: System, clients: Clients, tmp_path: Path) -> None:
    accounts = [
        {
            "username": system.users[name].name,
            "password": PASSWORD,
            "project_name": system.users[name].project,
            "domain_name": DOMAIN,
            "roles": [role],
            **({"types": ["admin"]} if name == "admin" else {}),
        }
        for name, role in (("admin", "admin"), ("member", "member"), ("reader", "reader"))
    ]
    (tmp_path / "accounts.yaml").write_text(yaml.safe_dump(accounts))
    (tmp_path / "tempest.conf").write_text(
        f"""\
[DEFAULT]
log_file = {tmp_path}/tempest.log
[oslo_concurrency]
lock_path = {tmp_path}/locks
[auth]
use_dynamic_credentials = false
test_accounts_file = {tmp_path}/accounts.yaml
create_isolated_networks = false
default_credentials_domain_name = {DOMAIN}
[identity]
uri_v3 = {system.keystone.url}
auth_version = v3
region = maximum-{MAX_VERSION}
v3_endpoint_type = public
[compute]
region = maximum-{MAX_VERSION}
max_microversion = {MAX_VERSION}
[service_available]
cinder = false
swift = false
horizon = false
glance = true
neutron = true
nova = true
"""
    )
    environ = {"TEMPEST_CONFIG_DIR": str(tmp_path), "TEMPEST_CONFIG": "tempest.conf"}
    output = clients.run(environ, str(_HERE / "tempest_tests_script.py"), system.surviving[7].id)
    told = json.loads(output.expect().stdout)
    assert told == {"ran": 5, "problems": []}, output.stderr
