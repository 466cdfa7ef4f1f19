"""What a server's own state says to an action, in the order in which a Compute API answers.

A server that was never launched, which Nova refuses too, there is not here: a host has it in its inventory only after it was.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from api_gateway.vm_state import Stateful, get_vm_state
from compute_agent.contract.models import ActionKind, PowerState

CRASH_DUMP_VM_STATES = frozenset({"active", "paused", "rescued", "resized", "error"})
WATCHDOG_VM_STATES = CRASH_DUMP_VM_STATES | {"stopped", "suspended"}
"""Wherever there is a machine that has devices or will have them: one that is off, asleep, or has crashed too."""


class Subject(Stateful, Protocol):
    """A server that is to be acted on: what decides whether it may be."""

    @property
    def id(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def conflict_host(self) -> str | None: ...
    @property
    def locked_by(self) -> str | None: ...


class Refused(Exception):
    """The server's present state forbids the action; the text says which and may be shown to the caller."""


@dataclass(frozen=True)
class ServerChecks:
    """What is looked at for one kind of action. ``in_any_state``: neither a state nor a lock keeps anybody off, because it
    changes nothing, or because not to do it would. ``power_state``: only a server in this one; None: the host decides."""

    kind: ActionKind
    in_any_state: bool = False
    vm_states: Collection[str] = CRASH_DUMP_VM_STATES
    power_state: PowerState | None = None

    def check(self, server: Subject, *, passes_locks: bool) -> None:
        """:raises Refused: the server's state forbids the action."""
        if not (self.in_any_state or passes_locks):
            _check_lock(server)
        _check_ready(server)
        _check_conflict(server)
        if not self.in_any_state:
            self._check_vm_state(server)
            self._check_task_state(server)

    def _check_vm_state(self, server: Subject) -> None:
        vm_state = get_vm_state(server)
        if vm_state not in self.vm_states:
            raise Refused(f"Cannot '{self.kind}' instance {server.id} while it is in vm_state {vm_state}")
        if self.power_state is not None and server.power_state != self.power_state:
            raise Refused(
                f"Cannot '{self.kind}' instance {server.id} while it is in power state {server.power_state}: it must be {self.power_state}."
            )

    def _check_task_state(self, server: Subject) -> None:
        if server.task_state is not None:
            raise Refused(f"Cannot '{self.kind}' instance {server.id} while it is in task_state {server.task_state}")


CRASH_DUMP = ServerChecks(ActionKind.TRIGGER_CRASH_DUMP)
HOST_DUMP = ServerChecks(ActionKind.TAKE_HOST_DUMP)
DIAGNOSTICS = ServerChecks(ActionKind.COLLECT_DIAGNOSTICS, in_any_state=True)
SET_WATCHDOG = ServerChecks(ActionKind.SET_WATCHDOG, vm_states=WATCHDOG_VM_STATES)
REMOVE_WATCHDOG = ServerChecks(ActionKind.REMOVE_WATCHDOG, vm_states=WATCHDOG_VM_STATES)
RESUME = ServerChecks(ActionKind.RESUME, vm_states=WATCHDOG_VM_STATES, power_state=PowerState.PAUSED)
RESET_WATCHDOG_TIMER = ServerChecks(ActionKind.RESET_WATCHDOG_TIMER, in_any_state=True)
"""A lock that kept who feeds it off would have the server reset."""


def _check_lock(server: Subject) -> None:
    if server.locked_by is not None:
        raise Refused(f"Instance {server.id} is locked")


def _check_ready(server: Subject) -> None:
    if server.missing_since is not None:
        raise Refused(f"Instance {server.id} is not ready")


def _check_conflict(server: Subject) -> None:
    if server.conflict_host is not None:
        raise Refused(
            f"Instance {server.id} is claimed by two hosts, {server.host} and {server.conflict_host}; "
            "nothing is sent to either until one of them lets go"
        )
