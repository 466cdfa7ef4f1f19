"""One whole system with real guests or machines for a test file, and what tests of it ask through HTTP."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import libvirt
import pytest

from devstack.api_client import Answer
from devstack.bmc_inventory import InventoryEntry
from devstack.fleet import MachineSpec
from devstack.guests import Guest
from devstack.ports import find_free_base
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.services import ProcessId, Service, iterate_command_lines, wait_until
from devstack.stack import GuestSpec, Stack
from devstack.stack_config import Options
from tests.databases import PATIENT

TIMEOUT = 40.0


class Server(Protocol):
    """Whatever is behind it: a guest, a machine, or an entry of an inventory."""

    @property
    def uuid(self) -> str: ...
    @property
    def name(self) -> str: ...


@contextmanager
def running_stack(
    directory: Path,
    guests: Sequence[GuestSpec],
    agent_options: Options,
    *,
    machines: Sequence[MachineSpec] | None = None,
    inventory: Sequence[InventoryEntry] = (),
) -> Iterator[Stack]:
    """All parts, running; skips on a laptop that lacks them, fails in CI."""
    missing = list_missing_parts()
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}"
    libvirt.registerErrorHandler(lambda *_: None, None)
    patient: Options = {"database": {"busy_timeout": PATIENT}}
    system = Stack(
        directory,
        find_free_base(),
        guests=guests,
        machines=machines,
        inventory=inventory,
        agent_options=agent_options,
        gateway_options=patient,
    )
    try:
        system.up()
        yield system
    finally:
        system.down()


@contextmanager
def another_agent(stack: Stack, argv: Sequence[str], **environment: str) -> Iterator[None]:
    """For the time of a with block this program is the agent; the one before it and itself are ended by kill -9."""
    stack.agent.kill()
    agent = Service(
        "another agent", argv, env={**os.environ, **environment}, log=stack.state_dir / "another-agent.log", cwd=stack.state_dir
    )
    agent.start()
    try:
        yield
    finally:
        agent.kill()
        stack.agent.start()


def wait_asked(stack: Stack, uuid: str, api: str = "v1", **headers: str) -> Answer:
    """Diagnostics, as :func:`wait_answered`."""
    return wait_answered(stack, f"/{api}/servers/{uuid}/diagnostics", **headers)


def wait_answered(stack: Stack, path: str, **headers: str) -> Answer:
    """What only the agent knows, once it can be asked: on a busy machine the API may not have got through to it yet, and says so."""

    def ask() -> Answer | None:
        answer = stack.client.get(path, headers=headers)
        return None if answer.status == 503 else answer

    answer = wait_until(ask, TIMEOUT, path, interval=0.2)
    assert answer.status == 200, answer.text
    return answer


def trigger(stack: Stack, server: Server) -> str:
    """POST as today's clients do; the action's id."""
    answer = stack.client.trigger_crash_dump(server.uuid)
    assert answer.status == 202, answer.text
    return answer.request_id


def trigger_until(stack: Stack, server: Server, deadline_seconds: float) -> str:
    """The same through our own interface, with more time than usual for what is in the way; the action's id."""
    answer = stack.client.post(f"/v1/servers/{server.uuid}/actions", {"kind": "trigger_crash_dump", "deadline_seconds": deadline_seconds})
    assert answer.status == 202, answer.text
    return str(answer.body["id"])


def wait_for(stack: Stack, action_id: str, **expected: object) -> dict[str, Any]:
    """The action once its fields, or its observation's, are as expected."""
    seen: dict[str, Any] = {}

    def is_there() -> bool:
        seen.update(stack.client.get_action(action_id))
        flat = seen | {"observation": None, "final": None} | (seen["observation"] or {})
        return all(flat[name] == value for name, value in expected.items())

    try:
        wait_until(is_there, TIMEOUT, f"{action_id} to show {expected}")
    except TimeoutError as error:
        raise AssertionError(f"{error}; it shows {seen}") from error
    return seen


def get_server(stack: Stack, server: Server) -> dict[str, Any]:
    answer = stack.client.get(f"/v2.1/servers/{server.uuid}")
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.body["server"]
    return found


def wait_power_state(stack: Stack, server: Server, number: int) -> None:
    wait_until(
        lambda: get_server(stack, server)["OS-EXT-STS:power_state"] == number, TIMEOUT, f"{server.name} to be in power state {number}"
    )


def find_qemu(guest: Guest) -> ProcessId:
    for pid, command_line in iterate_command_lines():
        if command_line.startswith(b"/usr/bin/qemu-system") and guest.uuid.encode() in command_line:
            found = ProcessId.find_running(pid)
            if found is not None:
                return found
    raise LookupError(f"no QEMU process of {guest.name}")
