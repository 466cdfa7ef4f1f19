"""What is shown of a server's states: the Compute API's words for what hosts and admins say."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from api_gateway.vm_state import (
    STATUSES,
    UNKNOWN,
    VM_STATES,
    derive_vm_state,
    find_vm_states_of_status,
    get_power_number,
    get_status,
    get_vm_state,
    list_power_states,
)
from compute_agent.contract.models import PowerState

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Server:
    vm_state: str = "active"
    task_state: str | None = None
    power_state: str = "running"
    missing_since: datetime | None = None
    deleted_at: datetime | None = None


@pytest.mark.parametrize(("power_state", "vm_state", "number"), [
    ("pending", "active", 0),
    ("running", "active", 1),
    ("paused", "paused", 3),
    ("shutdown", "stopped", 4),
    ("crashed", "active", 6),
    ("suspended", "suspended", 7),
    ("a word of a newer agent", "active", 0),
])  # fmt: skip
def test_a_power_state_has_its_vm_state_and_number(power_state: str, vm_state: str, number: int) -> None:
    assert derive_vm_state(power_state) == vm_state
    assert get_power_number(Server(power_state=power_state)) == number


def test_every_power_state_of_the_contract_is_found_by_its_number() -> None:
    assert {word for number in range(8) for word in list_power_states([number])} == set(PowerState)
    assert list_power_states([2, 5, 8]) == set()


@pytest.mark.parametrize(("vm_state", "task_state", "status"), [
    ("active", None, "ACTIVE"),
    ("active", "rebooting", "REBOOT"),
    ("active", "reboot_pending", "REBOOT"),
    ("active", "reboot_started", "REBOOT"),
    ("active", "rebooting_hard", "HARD_REBOOT"),
    ("active", "reboot_pending_hard", "HARD_REBOOT"),
    ("active", "reboot_started_hard", "HARD_REBOOT"),
    ("active", "updating_password", "PASSWORD"),
    ("active", "rebuilding", "REBUILD"),
    ("active", "rebuild_spawning", "REBUILD"),
    ("active", "migrating", "MIGRATING"),
    ("active", "resize_prep", "RESIZE"),
    ("active", "powering-off", "ACTIVE"),
    ("building", "spawning", "BUILD"),
    ("stopped", None, "SHUTOFF"),
    ("stopped", "resize_migrated", "RESIZE"),
    ("stopped", "rebuild_block_device_mapping", "REBUILD"),
    ("paused", None, "PAUSED"),
    ("paused", "migrating", "MIGRATING"),
    ("suspended", None, "SUSPENDED"),
    ("rescued", "unrescuing", "RESCUE"),
    ("resized", None, "VERIFY_RESIZE"),
    ("resized", "resize_reverting", "REVERT_RESIZE"),
    ("error", None, "ERROR"),
    ("error", "rebuilding", "REBUILD"),
    ("shelved", None, "SHELVED"),
    ("shelved_offloaded", None, "SHELVED_OFFLOADED"),
    ("soft-delete", None, "SOFT_DELETED"),
    ("a word of a newer release", None, UNKNOWN),
])  # fmt: skip
def test_a_status_is_made_of_vm_state_and_task_state(vm_state: str, task_state: str | None, status: str) -> None:
    assert get_status(Server(vm_state, task_state)) == status


def test_a_deleted_server_is_deleted_whatever_was_said_of_it() -> None:
    server = Server("error", "rebuilding", deleted_at=LONG_AGO)
    assert (get_vm_state(server), get_status(server)) == ("deleted", "DELETED")
    assert "deleted" not in VM_STATES


def test_of_a_server_that_nobody_has_neither_status_nor_power_is_known() -> None:
    server = Server("error", missing_since=LONG_AGO)
    assert (get_vm_state(server), get_status(server), get_power_number(server)) == ("error", UNKNOWN, 0)


def test_each_status_leads_back_to_the_states_that_show_it() -> None:
    for vm_state, shown in STATUSES.items():
        if vm_state == "deleted":
            assert find_vm_states_of_status(shown.status) == []
            continue
        assert vm_state in {choice.vm_state for choice in find_vm_states_of_status(shown.status)}
        for task_state, status in shown.during.items():
            found = [choice for choice in find_vm_states_of_status(status) if choice.vm_state == vm_state]
            assert any(choice.during is not None and task_state in choice.during for choice in found)
    assert find_vm_states_of_status("NONSENSE") == []
