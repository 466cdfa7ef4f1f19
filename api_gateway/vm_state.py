"""A server's state in the Compute API's words, derived from the power state that its host reports."""

from collections.abc import Iterable

from api_gateway.store.servers import ServerRow
from compute_agent.contract.models import PowerState

_VM_STATES: dict[str, str] = {
    PowerState.PENDING: "active",
    PowerState.RUNNING: "active",
    PowerState.CRASHED: "active",
    PowerState.PAUSED: "paused",
    PowerState.SHUTDOWN: "stopped",
    PowerState.SUSPENDED: "suspended",
}
"""A crashed guest stays ``active``, as in Nova, where only the power state tells. ``pending`` is a hypervisor that would not say: its host
may know better when it is asked."""

_POWER_NUMBERS: dict[str, int] = {
    PowerState.PENDING: 0,
    PowerState.RUNNING: 1,
    PowerState.PAUSED: 3,
    PowerState.SHUTDOWN: 4,
    PowerState.CRASHED: 6,
    PowerState.SUSPENDED: 7,
}

_STATUSES: dict[str, str] = {"active": "ACTIVE", "paused": "PAUSED", "stopped": "SHUTOFF", "suspended": "SUSPENDED", "deleted": "DELETED"}

UNKNOWN = "UNKNOWN"
"""The status of a server that its host has no longer and nobody else has yet."""


def get_vm_state(server: ServerRow) -> str:
    """A word of a newer agent that we do not know counts as active: its host decides."""
    return "deleted" if server.deleted_at is not None else _VM_STATES.get(server.power_state, "active")


def get_power_number(server: ServerRow) -> int:
    return 0 if server.missing_since is not None else _POWER_NUMBERS.get(server.power_state, 0)


def get_status(server: ServerRow) -> str:
    if server.deleted_at is None and server.missing_since is not None:
        return UNKNOWN
    return _STATUSES[get_vm_state(server)]


def list_power_states(statuses: Iterable[str]) -> set[str]:
    """The power states that are shown as one of ``statuses``."""
    wanted = set(statuses)
    return {power_state for power_state, vm_state in _VM_STATES.items() if _STATUSES[vm_state] in wanted}


def list_power_states_of(*, vm_states: Iterable[str] | None = None, numbers: Iterable[int] | None = None) -> set[str]:
    """The power states whose vm_state, or whose number, is among the given ones."""
    if vm_states is not None:
        wanted_states = set(vm_states)
        return {power_state for power_state, vm_state in _VM_STATES.items() if vm_state in wanted_states}
    wanted_numbers = set(numbers or ())
    return {power_state for power_state, number in _POWER_NUMBERS.items() if number in wanted_numbers}
