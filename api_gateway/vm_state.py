"""A server's state in the Compute API's words: what its host's power state means, and what is shown for a vm_state and a task_state.

Only words and functions of words: the store derives and searches with them, the API shows them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from compute_agent.contract.models import PowerState

_VM_STATES_OF_POWER: dict[str, str] = {
    PowerState.PENDING: "active",
    PowerState.RUNNING: "active",
    PowerState.CRASHED: "active",
    PowerState.PAUSED: "paused",
    PowerState.SHUTDOWN: "stopped",
    PowerState.SUSPENDED: "suspended",
}
"""A crashed guest stays ``active``, as in Nova, where only the power state tells. ``pending`` is a hypervisor that would not say: its host
may know better when it is asked."""

POWER_NUMBERS: dict[str, int] = {
    PowerState.PENDING: 0,
    PowerState.RUNNING: 1,
    PowerState.PAUSED: 3,
    PowerState.SHUTDOWN: 4,
    PowerState.CRASHED: 6,
    PowerState.SUSPENDED: 7,
}

_REBUILDING = dict.fromkeys(("rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"), "REBUILD")
_RESIZING = dict.fromkeys(("resize_prep", "resize_migrating", "resize_migrated", "resize_finish"), "RESIZE")
_REBOOTING = dict.fromkeys(("rebooting", "reboot_pending", "reboot_started"), "REBOOT")
_REBOOTING_HARD = dict.fromkeys(("rebooting_hard", "reboot_pending_hard", "reboot_started_hard"), "HARD_REBOOT")


@dataclass(frozen=True)
class Shown:
    """The status of a vm_state: ``status``, and while one of the task states in ``during`` lasts, that one's."""

    status: str
    during: dict[str, str]


STATUSES: dict[str, Shown] = {
    "active": Shown(
        "ACTIVE",
        _REBOOTING | _REBOOTING_HARD | _REBUILDING | _RESIZING | {"updating_password": "PASSWORD", "migrating": "MIGRATING"},
    ),
    "building": Shown("BUILD", {}),
    "stopped": Shown("SHUTOFF", _REBUILDING | _RESIZING),
    "paused": Shown("PAUSED", {"migrating": "MIGRATING"}),
    "suspended": Shown("SUSPENDED", {}),
    "rescued": Shown("RESCUE", {}),
    "resized": Shown("VERIFY_RESIZE", {"resize_reverting": "REVERT_RESIZE"}),
    "error": Shown("ERROR", _REBUILDING),
    "shelved": Shown("SHELVED", {}),
    "shelved_offloaded": Shown("SHELVED_OFFLOADED", {}),
    "soft-delete": Shown("SOFT_DELETED", {}),
    "deleted": Shown("DELETED", {}),
}
VM_STATES = frozenset(STATUSES.keys() - {"deleted"})
"""What a server that there is may be in. Deleted it is when nobody has it any more, not by anybody's word."""

UNKNOWN = "UNKNOWN"
"""The status of a server that its host has no longer and nobody else has yet, and of words that only a newer release knows."""
LIVING_STATUSES = frozenset(word for state in VM_STATES for word in (STATUSES[state].status, *STATUSES[state].during.values())) | {UNKNOWN}
"""All statuses that a server which there is may be shown with."""


class Stateful(Protocol):
    """What the words below are worked out from: a server as the store has it."""

    @property
    def vm_state(self) -> str: ...
    @property
    def task_state(self) -> str | None: ...
    @property
    def power_state(self) -> str: ...
    @property
    def missing_since(self) -> datetime | None: ...
    @property
    def deleted_at(self) -> datetime | None: ...


def derive_vm_state(power_state: str) -> str:
    """What a host's word means as long as nobody says otherwise. One of a newer agent that we do not know counts as active: its host
    decides."""
    return _VM_STATES_OF_POWER.get(power_state, "active")


def get_vm_state(server: Stateful) -> str:
    return "deleted" if server.deleted_at is not None else server.vm_state


def get_power_number(server: Stateful) -> int:
    return 0 if server.missing_since is not None else POWER_NUMBERS.get(server.power_state, 0)


def get_status(server: Stateful) -> str:
    if server.deleted_at is None and server.missing_since is not None:
        return UNKNOWN
    shown = STATUSES.get(get_vm_state(server))
    if shown is None:
        return UNKNOWN
    return shown.during.get(server.task_state or "", shown.status)


@dataclass(frozen=True)
class StateChoice:
    """Servers of a vm_state: those in one of the task states ``during``, or (None) those in none of ``except_during``."""

    vm_state: str
    during: frozenset[str] | None = None
    except_during: frozenset[str] = frozenset()


def find_vm_states_of_status(status: str) -> list[StateChoice]:
    """Which living servers are shown with ``status``; none for a word that there is not."""
    choices = []
    for vm_state, shown in STATUSES.items():
        if vm_state == "deleted":
            continue
        if shown.status == status:
            choices.append(StateChoice(vm_state, except_during=frozenset(shown.during)))
        during = frozenset(task_state for task_state, word in shown.during.items() if word == status)
        if during:
            choices.append(StateChoice(vm_state, during=during))
    return choices


def list_power_states(numbers: Iterable[int]) -> set[str]:
    """The power states with these numbers."""
    wanted = set(numbers)
    return {power_state for power_state, number in POWER_NUMBERS.items() if number in wanted}
