"""One host with real guests under a private libvirtd: some survive an NMI and count it, some panic, one dumps; each has a watchdog.

Somebody keeps them going past crashcart: who crashed is started again, who was paused resumed. What each guest has counted, when it booted,
and what QEMU says of its watchdog, is written down by the way.
"""

import signal
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import libvirt

from compute_agent.contract.models import ActionKind
from devstack.deployment import RUNNING, AgentProgram, AgentSpec, GuestSpec
from devstack.guests import Guest, GuestKind
from devstack.services import wait_until
from devstack.stack import Stack
from devstack.stack_config import HOST, PROJECT, Options, merge
from tests.chaos.history import History, What
from tests.chaos.hosting import Hosting, Part, make_agent_section
from tests.firing_ledger import FiringLedger
from tests.stack.real_stack import find_qemu

_LOOK_AGAIN = 0.1
_REPAIR_AFTER = 2.0
"""Seconds that a crashed guest stays so, and a paused one."""
_REPAIR_TIMEOUT = 60.0
_ANSWER_TIMEOUT = 20.0
_SETTLE_TIMEOUT = 120.0
_CALL = {"keepalive_interval": 1, "keepalive_count": 2, "call_bound": 5, "detach_timeout": 4}


class RealGuests(Hosting):
    """A handful: under emulation each boot takes a processor for seconds."""

    holdoff = 8.0
    bound = 5.0
    kinds: ClassVar[Mapping[ActionKind, int]] = {ActionKind.TRIGGER_CRASH_DUMP: 85, ActionKind.COLLECT_DIAGNOSTICS: 15}
    force_share = 0.0
    """Guests count NMIs, not whose they are."""
    counts_calls = False
    _KINDS = (
        (GuestKind.SURVIVING, "i6300esb:none"),
        (GuestKind.SURVIVING, "i6300esb:inject-nmi"),
        (GuestKind.SURVIVING, "i6300esb:reset"),
        (GuestKind.PANICKING, "i6300esb:pause"),
        (GuestKind.KDUMP, "i6300esb:none"),
    )

    def __init__(self) -> None:
        self.guests = [
            GuestSpec(f"{kind}-{number}", kind, uuid=str(uuid.uuid4()), watchdog=watchdog, second_monitor=True)
            for number, (kind, watchdog) in enumerate(self._KINDS, 1)
        ]
        self._watched: list[WatchedGuest] = []
        self._ledger: FiringLedger | None = None
        self._closing = ExitStack()
        self._stop = threading.Event()

    def list_agents(self, directory: Path) -> list[AgentSpec]:
        options = merge(make_agent_section("libvirt", self.holdoff), {"agent": {"first_look": 1}, "libvirt": _CALL})
        return [AgentSpec(HOST, options=options)]

    def list_servers(self, host: str) -> dict[str, str]:
        return {guest.uuid: PROJECT for guest in self.guests}

    def get_agent_program(self, host: str) -> AgentProgram:
        return AgentProgram(RUNNING.find_command("crashcart-agent"), {})

    def make_agent_options(self, stack: Stack, host: str) -> Options:
        connection = {"uri": stack.libvirtd.uri, "auto_dump_path": stack.libvirtd.dump_dir}
        return merge(*(spec.options for spec in self.list_agents(stack.state_dir)), {"libvirt": connection})

    def find_hypervisor(self, host: str) -> Path | None:
        return None

    def start(self, stack: Stack) -> None:
        libvirt.registerErrorHandler(lambda *_: None, None)  # it would print what is raised as well
        stack.start_hypervisor()

    def list_parts(self, stack: Stack) -> dict[str, Part]:
        return {"libvirtd": stack.libvirtd, **{f"guest:{guest.name}": guest for guest in self._watched}}

    def begin(self, stack: Stack, history: History) -> None:
        ledger = self._ledger = self._closing.enter_context(FiringLedger(stack.guests.values()))
        self._watched = [WatchedGuest(guest, history, ledger) for guest in stack.guests.values()]
        threads = [threading.Thread(target=self._attend, args=(guest,), name=f"attends-{guest.name}") for guest in self._watched]
        for thread in threads:
            self._closing.callback(thread.join)
            thread.start()
        self._closing.callback(self._stop.set)

    def set_clock(self, stack: Stack, host: str, offset: float) -> None:
        stack.clocks["crashcart-agent"].seconds = offset

    def collect(self, history: History) -> None:
        """What was sent to a paused guest fires when it resumes: all are seen running, ready, and listening before they are counted."""
        for guest in self._watched:
            wait_until(guest.answers, _SETTLE_TIMEOUT, f"guest {guest.name} to be there")
        assert self._ledger is not None, "begun before"
        for fired in self._ledger.list_firings():
            history.write(What.FIRED, at=fired.at.timestamp(), server=fired.server, action=fired.action)
        for guest in self._watched:
            guest.look()
            dumps = guest.guest.kind.has_crash_kernel
            history.write(What.GUEST, server=guest.uuid, signals=guest.count_signals(), panics=guest.panics, dumps=dumps)

    def end(self) -> None:
        self._closing.close()

    def _attend(self, guest: "WatchedGuest") -> None:
        while not self._stop.wait(_LOOK_AGAIN):
            guest.look()
            guest.repair()


class WatchedGuest:
    """A guest as a part that can be struck, and what is written down of it."""

    def __init__(self, guest: Guest, history: History, ledger: FiringLedger) -> None:
        self.name = guest.name
        self.uuid = guest.uuid
        self.guest = guest
        self._history = history
        self._ledger = ledger
        self._struck = threading.Event()
        self._lock = threading.Lock()
        self._signals = 0
        self._boots = guest.count_boots()
        self._look_at = 0.0
        self._troubled_since: float | None = None

    # As a part

    @property
    def is_running(self) -> bool:
        return not self._struck.is_set()

    def start(self) -> None:
        """Again, once libvirtd is there and has seen it end."""
        with self._lock:
            wait_until(self._try_start, _REPAIR_TIMEOUT, f"libvirtd to start {self.name}", interval=0.2)
            self._struck.clear()

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        """kill -9 of its QEMU."""
        with self._lock:
            self._struck.set()
            self._write(What.RESET)
            self._send(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP of its QEMU."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    # Under observation

    @property
    def panics(self) -> bool:
        """Whether each NMI ends a life of it."""
        return self.guest.kind is not GuestKind.SURVIVING

    def count_signals(self) -> int:
        """NMIs that it took: as it says itself; of one that panics, as QEMU says, since what it said last is lost with it."""
        if not self.panics:
            return self.guest.count_all_nmis()
        return self.guest.count_dumps() if self.guest.kind.has_crash_kernel else self._ledger.count_panics(self.uuid)

    def look(self) -> None:
        boots, signals = self.guest.count_boots(), self.count_signals()
        if boots > self._boots:
            self._boots = boots
            self._write(What.BOOTED)
        for _ in range(signals - self._signals):
            self._history.write(What.COUNTED, server=self.uuid, panicked=self.panics)
        self._signals = signals

    def answers(self) -> bool:
        """Whether it does what it is told, and so long that it has said what it counts."""
        if self.guest.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
            return False
        try:
            self.guest.commands.run("sleep 0.5", _ANSWER_TIMEOUT)
        except (OSError, TimeoutError):
            return False
        return True

    def repair(self) -> None:
        """Now and then look whether it stands still without having been struck, and let it go on."""
        if time.monotonic() < self._look_at or self._struck.is_set():
            return
        self._look_at = time.monotonic() + 0.5
        try:
            is_troubled = self.guest.state()[0] != libvirt.VIR_DOMAIN_RUNNING
            if not is_troubled:
                self._troubled_since = None
            elif self._troubled_since is None:
                self._troubled_since = time.monotonic()
            elif time.monotonic() - self._troubled_since >= _REPAIR_AFTER:
                self._bring_back()
        except libvirt.libvirtError:
            return  # libvirtd is struck; later

    def _bring_back(self) -> None:
        with self._lock:
            if self._struck.is_set():
                return
            if self.guest.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                self.guest.resume()
                return
            self._write(What.RESET)
            self.guest.destroy()
            self.guest.start()

    def _try_start(self) -> bool:
        try:
            if self.guest.state()[0] not in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
                return False
            self.guest.destroy()
            self.guest.start()
        except libvirt.libvirtError:
            return False
        return True

    def _send(self, number: int) -> None:
        try:
            find_qemu(self.guest).send(number)
        except LookupError:
            return  # it has ended by itself, or is between two lives

    def _write(self, what: What) -> None:
        self._history.write(what, server=self.uuid)
