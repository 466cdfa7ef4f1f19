"""From the POST to the NMI, and to the panic that the API shows, beside what libvirt alone needs for the same guest.

One real guest panics, is started anew, gets ready, and panics again: through ``virsh inject-nmi``, through libvirt's API, and through
crashcart in turn, so that a machine that slows down slows all three.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import libvirt

from devstack.guests import Guest, GuestKind
from devstack.ports import find_free_base
from devstack.services import wait_until
from devstack.stack import GuestSpec, Stack
from tests.bench.figures import Figure

GUEST = "bench"
GUESTS = (GuestSpec(GUEST, GuestKind.PANICKING),)
_TIMEOUT = 30.0


class PanicEvents:
    """Sees libvirt's CRASHED events as any client of libvirt would."""

    def __init__(self, connection: libvirt.virConnect, uuid: str) -> None:
        self._seen = threading.Event()
        self._at = 0.0
        self._uuid = uuid
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)

    def _on_lifecycle(self, _connection: object, domain: libvirt.virDomain, event: int, _detail: int, _opaque: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_CRASHED and domain.UUIDString() == self._uuid:
            self._at = time.perf_counter()
            self._seen.set()

    def expect(self) -> None:
        """Forget what was seen."""
        self._seen.clear()

    def wait(self) -> float:
        """When the panic was seen, on the perf counter.

        :raises TimeoutError: none came.
        """
        if not self._seen.wait(_TIMEOUT):
            raise TimeoutError("the guest did not panic")
        return self._at


@contextmanager
def watch_panics(uri: str, uuid: str) -> Iterator[PanicEvents]:
    """A connection of its own with libvirt's event loop, for as long as the block lasts."""
    connection = libvirt.open(uri)
    try:
        yield PanicEvents(connection, uuid)
    finally:
        connection.close()


def measure_on_own_stack(runs: int) -> list[Figure]:
    """Bring a stack up, measure, take it down.

    :raises StepFailed: the stack did not come up.
    :raises TimeoutError: the guest or crashcart did not answer within 30 s.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_libvirt_events, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory:
        stack = Stack(Path(directory), find_free_base(), guests=GUESTS, holdoff=0)
        try:
            stack.up()
            return measure(stack, runs)
        finally:
            stack.down()


def _run_libvirt_events() -> None:
    while libvirt.virEventRunDefaultImpl() == 0:
        pass


def measure(stack: Stack, runs: int) -> list[Figure]:
    """Panic the stack's guest ``3 * runs`` times.

    :raises TimeoutError: the guest or crashcart did not answer within 30 s.
    """
    guest = stack.guests[GUEST]
    virsh: list[float] = []
    raw: list[float] = []
    issued: list[float] = []
    visible: list[float] = []
    with watch_panics(stack.libvirtd.uri, guest.uuid) as panics:
        for _ in range(runs):
            virsh.append(_measure_virsh(stack, guest, panics))
            _revive(stack, guest)
            raw.append(_measure_libvirt(guest, panics))
            _revive(stack, guest)
            until_nmi, until_visible = _measure_crashcart(stack, guest)
            issued.append(until_nmi)
            visible.append(until_visible)
            _revive(stack, guest)
    return [
        Figure("virsh inject-nmi, process start to panic event", virsh),
        Figure("libvirt injectNMI to panic event", raw),
        Figure("POST to the driver call", issued),
        Figure("POST to the panic visible in the API", visible, floor="libvirt injectNMI to panic event"),
    ]


def _measure_virsh(stack: Stack, guest: Guest, panics: PanicEvents) -> float:
    panics.expect()
    began = time.perf_counter()
    subprocess.run(["virsh", "-q", "-c", stack.libvirtd.uri, "inject-nmi", guest.uuid], check=True, stdin=subprocess.DEVNULL)
    return (panics.wait() - began) * 1000


def _measure_libvirt(guest: Guest, panics: PanicEvents) -> float:
    panics.expect()
    began = time.perf_counter()
    guest.inject_nmi()
    return (panics.wait() - began) * 1000


def _measure_crashcart(stack: Stack, guest: Guest) -> tuple[float, float]:
    """Milliseconds from the POST until the driver call began, and until the API showed the panic."""
    client = stack.client
    posted = datetime.now(UTC)
    began = time.perf_counter()
    answer = client.trigger_crash_dump(guest.uuid)
    if answer.status != 202:
        raise RuntimeError(f"POST answered {answer.status}: {answer.message}")
    action = client.get_action(answer.request_id, wait=_TIMEOUT)
    visible = (time.perf_counter() - began) * 1000
    if action["observation"] is None or action["observation"]["observation"] != "guest_panicked":
        raise RuntimeError(f"expected guest_panicked: {action}")
    issued = (datetime.fromisoformat(action["started_at"]) - posted).total_seconds() * 1000
    return issued, visible


def _revive(stack: Stack, guest: Guest) -> None:
    """Switch the crashed guest off and on and wait until guest and API say that it runs."""
    boots = guest.count_boots()
    guest.destroy()
    guest.start()
    guest.wait_ready(boots=boots + 1)
    shows_running = lambda: stack.client.list_servers()[0]["OS-EXT-STS:power_state"] == 1  # noqa: E731
    wait_until(shows_running, _TIMEOUT, "the API to show the guest running")
