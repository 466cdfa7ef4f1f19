"""Which fields a server has in which version, for whom: nothing before its version, nothing of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from api_gateway.store.tables import servers
from tests.http.application import Application, create_application
from tests.http.fleet import RUNNING

ADMIN_ONLY = {"OS-EXT-SRV-ATTR:host", "OS-EXT-SRV-ATTR:hypervisor_hostname", "OS-EXT-SRV-ATTR:instance_name"}
ADMIN_SINCE_3 = {f"OS-EXT-SRV-ATTR:{name}" for name in ("hostname", "kernel_id", "launch_index", "ramdisk_id", "reservation_id")} | {
    "OS-EXT-SRV-ATTR:root_device_name",
    "OS-EXT-SRV-ATTR:user_data",
}
ADDED = {
    3: ADMIN_SINCE_3,
    9: {"locked"},
    16: {"host_status"},
    19: {"description"},
    26: {"tags"},
    63: {"trusted_image_certificates"},
    71: {"server_groups"},
    73: {"locked_reason"},
    96: {"pinned_availability_zone"},
    100: {"scheduler_hints"},
}
"""What each version adds to a server shown to an admin: contract section 6."""


@pytest.mark.parametrize("minor", range(1, 101))
def test_a_server_has_the_fields_of_its_version_and_no_others(application: Application, minor: int) -> None:
    shown = get_fields(application, f"/v2.1/servers/{RUNNING}", minor)
    before = get_fields(application, f"/v2.1/servers/{RUNNING}", max(minor - 1, 1))

    assert shown - before == (ADDED.get(minor, set()) if minor > 1 else set())
    assert before <= shown
    assert shown >= ADMIN_ONLY


@pytest.mark.parametrize("minor", [1, 3, 9, 16, 26, 47, 71, 73, 90, 96, 100])
def test_a_list_has_the_same_fields_but_for_server_groups(application: Application, minor: int) -> None:
    alone = get_fields(application, f"/v2.1/servers/{RUNNING}", minor)
    listed = get_fields(application, "/v2.1/servers/detail?limit=1", minor)

    assert listed == alone - {"server_groups"}


@pytest.mark.parametrize("minor", [1, 3, 16, 89, 90, 100])
def test_a_member_sees_no_host_and_the_hostname_only_since_2_90(application: Application, minor: int) -> None:
    shown = get_fields(application, f"/v2.1/servers/{RUNNING}", minor, **{"X-Roles": "member"})

    assert not shown & (ADMIN_ONLY | (ADMIN_SINCE_3 - {"OS-EXT-SRV-ATTR:hostname"}) | {"host_status"})
    assert ("OS-EXT-SRV-ATTR:hostname" in shown) == (minor >= 90)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = create_application(tmp_path_factory.mktemp("fields"))
    yield application
    application.close()


def get_fields(application: Application, path: str, minor: int, **headers: str) -> set[str]:
    answer = application.client.simulate_get(path, headers={"OpenStack-API-Version": f"compute 2.{minor}", **headers})
    assert answer.status_code == 200
    return set(answer.json["server"] if "server" in answer.json else answer.json["servers"][0])


def test_no_hosts_word_makes_diagnostics_endless(tmp_path: Path) -> None:
    application = create_application(tmp_path)
    with application.store.write() as c:
        c.execute(update(servers).values(vcpus=2**31 - 1))
    headers = {"OpenStack-API-Version": "compute 2.48"}
    answer = application.client.simulate_get(f"/v2.1/servers/{RUNNING}/diagnostics", headers=headers)
    application.close()
    assert answer.json["num_cpus"] == len(answer.json["cpu_details"]) == 8192
