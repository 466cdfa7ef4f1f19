"""Every vm_state with every task_state: what is shown, what a list finds by it, and whether a crash dump is taken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_gateway.server_checks import CRASH_DUMP, Refused
from api_gateway.store import servers
from api_gateway.store.server_rows import ServerRow
from api_gateway.vm_state import VM_STATES
from tests.http.application import Application, create_application
from tests.http.fleet import DELETED, HOST, OLD_AGENTS, OLD_HOST, RUNNING

STATUSES = {
    "active": "ACTIVE",
    "building": "BUILD",
    "stopped": "SHUTOFF",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "error": "ERROR",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "soft-delete": "SOFT_DELETED",
}
"""Contract section 6; what is shown while nothing is going on."""
OF_TASKS = {
    "rebooting": dict.fromkeys(["active"], "REBOOT"),
    "reboot_started_hard": dict.fromkeys(["active"], "HARD_REBOOT"),
    "updating_password": dict.fromkeys(["active"], "PASSWORD"),
    "migrating": dict.fromkeys(["active", "paused"], "MIGRATING"),
    "resize_prep": dict.fromkeys(["active", "stopped"], "RESIZE"),
    "resize_finish": dict.fromkeys(["active", "stopped"], "RESIZE"),
    "rebuilding": dict.fromkeys(["active", "stopped", "error"], "REBUILD"),
    "rebuild_spawning": dict.fromkeys(["active", "stopped", "error"], "REBUILD"),
    "resize_reverting": dict.fromkeys(["resized"], "REVERT_RESIZE"),
    "powering-off": {},
}
"""What is shown instead while a task lasts, in the states in which it is shown at all."""
TASKS = (None, *OF_TASKS)
DUMPABLE = {"active", "paused", "rescued", "resized", "error"}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = create_application(tmp_path_factory.mktemp("states"))
    yield application
    application.close()


def set_state(application: Application, vm_state: str, task_state: str | None) -> ServerRow:
    with application.store.write() as c:
        return servers.set_overlay(c, RUNNING, {"vm_state": vm_state, "task_state": task_state}, now=application.clock.now())


def test_the_table_has_every_state_that_a_server_may_be_in() -> None:
    assert set(STATUSES) == VM_STATES


@pytest.mark.parametrize("vm_state", sorted(STATUSES))
def test_a_state_is_shown_found_and_checked_alike(application: Application, vm_state: str) -> None:
    for task_state in TASKS:
        row = set_state(application, vm_state, task_state)

        shown = application.client.simulate_get(f"/v2.1/servers/{RUNNING}").json["server"]

        expected = OF_TASKS.get(task_state or "", {}).get(vm_state, STATUSES[vm_state])
        assert (shown["status"], shown["OS-EXT-STS:vm_state"], shown["OS-EXT-STS:task_state"]) == (expected, vm_state, task_state)
        assert ("progress" in shown) == (expected in {"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"})
        assert ("fault" in shown) == (expected == "ERROR")
        found = application.client.simulate_get("/v2.1/servers", params={"status": expected, "limit": "1"}).json["servers"]
        assert [server["id"] for server in found] == [RUNNING]  # it is the newest
        assert why_not_dumped(row) == expected_refusal(vm_state, task_state)


def why_not_dumped(row: ServerRow) -> str | None:
    try:
        CRASH_DUMP.check(row, passes_locks=True)
    except Refused as error:
        return str(error)
    return None


def expected_refusal(vm_state: str, task_state: str | None) -> str | None:
    if vm_state not in DUMPABLE:
        return f"Cannot 'trigger_crash_dump' instance {RUNNING} while it is in vm_state {vm_state}"
    if task_state is not None:
        return f"Cannot 'trigger_crash_dump' instance {RUNNING} while it is in task_state {task_state}"
    return None


def test_a_server_that_was_in_error_keeps_its_fault_when_it_is_deleted(tmp_path: Path) -> None:
    application = create_application(tmp_path)
    set_state(application, "error", None)
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE servers SET deleted_at = updated_at WHERE id = ?", (RUNNING,))

    listed = application.client.simulate_get("/v2.1/servers/detail?deleted=true").json["servers"]

    faults = {server["id"]: server.get("fault", {}).get("code") for server in listed}
    assert faults == {RUNNING: 500, DELETED: None}
    assert {server["status"] for server in listed} == {"DELETED"}
    application.close()


def test_host_status_is_unknown_where_nobody_can_say(tmp_path: Path) -> None:
    """An agent that is up and cannot read its hypervisor, and one that was never heard of."""
    application = create_application(tmp_path)
    with application.store.write() as c:
        c.exec_driver_sql("UPDATE agents SET inventory_readable = 0 WHERE host = ?", (HOST,))
        c.exec_driver_sql("DELETE FROM agents WHERE host = ?", (OLD_HOST,))

    for server in (RUNNING, OLD_AGENTS):
        shown = application.client.simulate_get(f"/v2.1/servers/{server}", headers={"OpenStack-API-Version": "compute 2.16"})
        assert shown.json["server"]["host_status"] == "UNKNOWN"
    application.close()
