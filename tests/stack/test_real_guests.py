"""Crash dumps of real guests through all the real parts: HTTP, SQLite, RabbitMQ, libvirt, QEMU.

Every test by which something is sent has a guest of its own, so that the hold-off of one is not the other's. NMIs are counted by guests
that survive them, from their own /proc/interrupts.
"""

import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import libvirt
import pytest

from devstack.guests import Guest, GuestKind
from devstack.services import PATIENCE, wait_until
from devstack.stack import GuestSpec, Stack
from tests.stack.real_stack import TIMEOUT, find_qemu, get_server, running_stack, trigger, trigger_until, wait_for, wait_power_state

pytestmark = pytest.mark.timeout(300 * PATIENCE)
"""Seconds of one test; the first one waits for the guests to boot, and beside them others may boot theirs."""
LONG = 120
"""Seconds of a deadline that nothing here takes, on however busy a machine."""
SURVIVORS = ("counted", "late", "killed", "crossed", "broker", "alarm")
GUESTS = (
    GuestSpec("panicking", GuestKind.PANICKING),
    GuestSpec("panics-unseen", GuestKind.PANICKING),
    GuestSpec("panics-later", GuestKind.PANICKING),
    GuestSpec("kdump", GuestKind.KDUMP),
    GuestSpec("kdump-notifiers", GuestKind.KDUMP_POST_NOTIFIERS),
    GuestSpec("stopped-unseen", GuestKind.PANICKING),
    GuestSpec("paused", GuestKind.SURVIVING),
    GuestSpec("off", GuestKind.PANICKING, running=False),
    *(GuestSpec(name, GuestKind.SURVIVING) for name in SURVIVORS),
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One whole system; each test leaves all its parts running."""
    with running_stack(tmp_path_factory.mktemp("stack"), GUESTS, {"agent": {"first_look": 1}}) as system:
        yield system


def assert_signalled_once(stack: Stack, guest: Guest) -> None:
    """A forced second action is the barrier: when its NMI is counted, a stray earlier one would be too.

    It waits for the first to be counted: of two that are pending at the same time a processor takes one.
    """
    wait_until(lambda: guest.nmi_count() >= 1, TIMEOUT, "the first NMI to be counted")
    body = {"kind": "trigger_crash_dump", "force": True}
    answer = stack.client.post(f"/v1/servers/{guest.uuid}/actions", body)
    assert answer.status == 202, answer.text
    wait_for(stack, answer.request_id, ending="succeeded")
    wait_until(lambda: guest.nmi_count() >= 2, TIMEOUT, "the second NMI to be counted")
    assert guest.nmi_count() == 2


class FrozenGuest:
    """The guest's QEMU process stopped, as a hypervisor that hangs: calls to it begin and do not return."""

    def __init__(self, guest: Guest) -> None:
        self._process = find_qemu(guest)

    def __enter__(self) -> None:
        self._process.send(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self._process.send(signal.SIGCONT)


def panic_behind_libvirt(stack: Stack, guest: Guest) -> None:
    """Inject an NMI through QEMU's own monitor, which is free while libvirtd is dead, and wait for the guest's panic."""
    directory = next(stack.libvirtd.state_dir.rglob(f"domain-*-{guest.name}/monitor.sock")).parent
    directory_fd = os.open(directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(TIMEOUT)
            # A socket's path ends at 107 bytes; the way through the open directory is short.
            monitor.connect(f"/proc/self/fd/{directory_fd}/monitor.sock")
            monitor.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "inject-nmi"}\n')
            said = b""
            while b"GUEST_PANICKED" not in said:
                chunk = monitor.recv(65536)
                assert chunk, f"QEMU closed its monitor after {said!r}"
                said += chunk
    finally:
        os.close(directory_fd)


def test_two_injections_count_two(stack: Stack) -> None:
    """The measure that the other tests rely on: straight through libvirt, past crashcart."""
    guest = stack.guests["counted"]
    guest.inject_nmi()
    wait_until(lambda: guest.nmi_count() == 1, TIMEOUT, "the first NMI to be counted")
    guest.inject_nmi()
    wait_until(lambda: guest.nmi_count() == 2, TIMEOUT, "the second NMI to be counted")


def test_a_crash_dump_panics_the_guest_and_the_api_says_so(stack: Stack) -> None:
    """And the action changes neither vm_state nor task_state; what today's clients show tells of NMI and observation."""
    guest = stack.guests["panicking"]
    before = get_server(stack, guest)
    action_id = trigger(stack, guest)
    action = wait_for(stack, action_id, ending="succeeded", observation="guest_panicked", final=True)
    assert action["decided_by"] == "agent"
    assert guest.state() == (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED)
    after = get_server(stack, guest)
    for field in ("OS-EXT-STS:vm_state", "OS-EXT-STS:task_state", "status"):
        assert after[field] == before[field]
    shown = stack.client.get(
        f"/v2.1/servers/{guest.uuid}/os-instance-actions/{action_id}", headers={"OpenStack-API-Version": "compute 2.84"}
    )
    events = {event["event"]: event["result"] for event in shown.body["instanceAction"]["events"]}
    assert events == {"compute_trigger_crash_dump": "Success", "guest_observation": "Success"}


def test_a_guest_that_has_crashed_already_is_not_signalled_again(stack: Stack) -> None:
    guest = stack.guests["panics-later"]
    guest.inject_nmi()
    wait_power_state(stack, guest, 6)
    action_id = trigger(stack, guest)
    assert wait_for(stack, action_id, ending="failed")["code"] == "server_not_running"


def test_a_dump_that_is_being_written_is_silent_and_protected_until_the_reboot(stack: Stack) -> None:
    guest = stack.guests["kdump"]
    action_id = trigger(stack, guest)
    meanwhile = wait_for(stack, action_id, ending="succeeded", observation="nothing_seen_yet", final=False)
    assert "do not trigger again" in meanwhile["observation"]["text"]
    second = stack.client.trigger_crash_dump(guest.uuid)
    assert second.status == 409
    assert action_id in second.message
    wait_until(guest.has_complete_dump, TIMEOUT, "the dump")
    assert "Kernel panic - not syncing: NMI" in guest.read_dump_log()
    wait_for(stack, action_id, observation="guest_rebooted", final=True)


def test_a_crash_kernel_that_announces_itself_is_reported(stack: Stack) -> None:
    """crash_kexec_post_notifiers: pvpanic says CRASHLOADED before the dump begins."""
    guest = stack.guests["kdump-notifiers"]
    action_id = trigger(stack, guest)
    wait_for(stack, action_id, ending="succeeded", observation="crash_kernel_started", final=False)
    wait_until(guest.has_complete_dump, TIMEOUT, "the dump")
    wait_for(stack, action_id, observation="guest_rebooted", final=True)


def test_a_paused_guest_takes_the_nmi_when_it_resumes(stack: Stack) -> None:
    guest = stack.guests["paused"]
    guest.suspend()
    wait_power_state(stack, guest, 3)
    action_id = trigger(stack, guest)
    wait_for(stack, action_id, ending="succeeded", observation="pending_until_resume", final=False)
    assert guest.nmi_count() == 0
    guest.resume()
    wait_until(lambda: guest.nmi_count() == 1, TIMEOUT, "the NMI to fire")


def test_servers_that_are_off_or_unknown_are_refused_at_once(stack: Stack) -> None:
    off = stack.client.trigger_crash_dump(stack.guests["off"].uuid)
    assert (off.status, "vm_state stopped" in off.message) == (409, True)
    assert stack.client.trigger_crash_dump("00000000-0000-4000-8000-000000000000").status == 404


def test_a_server_that_stopped_while_the_agent_was_away_fails_with_nothing_sent(stack: Stack) -> None:
    guest = stack.guests["stopped-unseen"]
    stack.agent.kill()
    guest.destroy()
    action_id = trigger_until(stack, guest, LONG)
    stack.agent.start()
    assert wait_for(stack, action_id, ending="failed")["code"] == "server_not_running"


def test_an_agent_that_is_back_before_the_deadline_does_what_was_asked(stack: Stack) -> None:
    guest = stack.guests["late"]
    stack.agent.kill()
    action_id = trigger_until(stack, guest, LONG)
    stack.agent.start()
    wait_for(stack, action_id, ending="succeeded")
    assert_signalled_once(stack, guest)


def test_an_agent_that_is_back_after_the_deadline_sends_nothing(stack: Stack) -> None:
    guest = stack.guests["counted"]
    before = guest.nmi_count()
    stack.agent.kill()
    answer = stack.client.post(f"/v1/servers/{guest.uuid}/actions", {"kind": "trigger_crash_dump", "deadline_seconds": 1})
    assert answer.status == 202, answer.text
    deadline = datetime.fromisoformat(answer.body["deadline"])
    wait_until(lambda: datetime.now(UTC) > deadline, TIMEOUT, "the deadline to pass")
    stack.agent.start()
    assert wait_for(stack, answer.request_id, ending="expired")["code"] == "deadline_passed"
    assert guest.nmi_count() == before


def test_an_agent_killed_during_the_call_leaves_an_unknown_ending_and_no_second_nmi(stack: Stack) -> None:
    """kill -9 between ``started`` and the ending, with the call already in the frozen hypervisor."""
    guest = stack.guests["killed"]
    with FrozenGuest(guest):
        action_id = trigger(stack, guest)
        wait_for(stack, action_id, state="started")
        with stack.libvirtd.connect() as connection:
            domain = connection.lookupByUUIDString(guest.uuid)
            occupied = libvirt.VIR_DOMAIN_CONTROL_OCCUPIED
            wait_until(lambda: domain.controlInfo()[0] == occupied, TIMEOUT, "libvirt to wait for the hypervisor")
        stack.agent.kill()
    stack.agent.start()
    action = wait_for(stack, action_id, ending="unknown")
    assert action["code"] == "agent_restarted"
    assert_signalled_once(stack, guest)


def test_killed_gateway_processes_lose_nothing(stack: Stack) -> None:
    """Dispatcher, recorder and API are killed right after the 202."""
    guest = stack.guests["crossed"]
    action_id = trigger_until(stack, guest, LONG)
    stack.engine.kill()
    stack.api.kill()
    wait_until(lambda: not stack.client.is_healthy(), TIMEOUT, "the killed API's worker to end")
    stack.engine.start()
    stack.api.start()
    stack.api.wait_ready(stack.client.is_healthy, TIMEOUT, "the API to answer")
    wait_for(stack, action_id, ending="succeeded")
    assert_signalled_once(stack, guest)


def test_posts_are_answered_while_the_broker_is_down_and_done_when_it_is_back(stack: Stack) -> None:
    guest = stack.guests["broker"]
    stack.broker.stop()
    action_id = trigger_until(stack, guest, LONG)
    stack.broker.start()
    wait_for(stack, action_id, ending="succeeded")
    assert_signalled_once(stack, guest)


def test_posts_are_answered_while_the_broker_is_in_alarm_and_done_when_it_is_over(stack: Stack) -> None:
    guest = stack.guests["alarm"]
    stack.broker.set_memory_alarm(True)
    try:
        action_id = trigger_until(stack, guest, LONG)
    finally:
        stack.broker.set_memory_alarm(False)
    wait_for(stack, action_id, ending="succeeded")
    assert_signalled_once(stack, guest)


def test_a_panic_while_libvirtd_was_dead_is_reported_when_it_is_back(stack: Stack) -> None:
    """The guest panics with nobody watching; events flow again afterwards."""
    guest = stack.guests["panics-unseen"]
    stack.libvirtd.kill()
    panic_behind_libvirt(stack, guest)
    stack.libvirtd.start()
    wait_power_state(stack, guest, 6)
    guest.destroy()
    wait_power_state(stack, guest, 4)


def test_a_server_defined_again_under_its_uuid_is_a_new_life(stack: Stack) -> None:
    guest = stack.guests["off"]
    guest.undefine()
    wait_until(lambda: stack.client.trigger_crash_dump(guest.uuid).status in (404, 409), TIMEOUT, "the server to be gone")
    guest.define(stack.libvirtd.uri)
    guest.start()
    guest.wait_ready()
    wait_until(lambda: get_server(stack, guest)["status"] == "ACTIVE", TIMEOUT, "the server to be listed as running")
    wait_for(stack, trigger(stack, guest), ending="succeeded", observation="guest_panicked", final=True)
