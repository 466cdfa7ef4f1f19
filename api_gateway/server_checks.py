"""What a server's own state says to a crash dump, in the order in which a Compute API answers.

A server that was never launched, which Nova refuses too, there is not here: a host has it in its inventory only after it was.
"""

from collections.abc import Callable

from api_gateway.store.servers import ServerRow
from api_gateway.vm_state import get_vm_state

CRASH_DUMP_VM_STATES = frozenset({"active", "paused", "rescued", "resized", "error"})


class Refused(Exception):
    """The server's present state forbids the action; the text says which and may be shown to the caller."""


def check_server(server: ServerRow, *, passes_locks: bool) -> None:
    """:raises Refused: its state forbids a crash dump."""
    if not passes_locks:
        _check_lock(server)
    for check in _CHECKS:
        check(server)


def _check_lock(server: ServerRow) -> None:
    if server.locked_by is not None:
        raise Refused(f"Instance {server.id} is locked")


def _check_ready(server: ServerRow) -> None:
    if server.missing_since is not None:
        raise Refused(f"Instance {server.id} is not ready")


def _check_conflict(server: ServerRow) -> None:
    if server.conflict_host is not None:
        raise Refused(
            f"Instance {server.id} is claimed by two hosts, {server.host} and {server.conflict_host}; "
            "nothing is sent to either until one of them lets go"
        )


def _check_vm_state(server: ServerRow) -> None:
    vm_state = get_vm_state(server)
    if vm_state not in CRASH_DUMP_VM_STATES:
        raise Refused(f"Cannot 'trigger_crash_dump' instance {server.id} while it is in vm_state {vm_state}")


def _check_task_state(server: ServerRow) -> None:
    if server.task_state is not None:
        raise Refused(f"Cannot 'trigger_crash_dump' instance {server.id} while it is in task_state {server.task_state}")


_CHECKS: tuple[Callable[[ServerRow], None], ...] = (_check_ready, _check_conflict, _check_vm_state, _check_task_state)
