"""Changes of a libvirt domain's watchdog: whatever fails at whatever step, it has the former or the new one, and the same call goes on."""

import os
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers.errors import (
    BackendUnavailable,
    DriverError,
    NothingSent,
    OutcomeUnknown,
    ServerNotFound,
    ServerNotRunning,
    ServerUnsupported,
)
from compute_agent.drivers.libvirt.removals import Removals
from compute_agent.drivers.libvirt.resume import LibvirtResume
from compute_agent.drivers.libvirt.watchdogs import LibvirtWatchdogs
from tests.unit.agent.libvirt_fakes import make_error
from tests.unit.agent.libvirt_machine import LOST_AFTER, LOST_BEFORE, REFUSED, SERVER, Machine

RESET, PAUSE, DUMP = (WatchdogDevice(model="i6300esb", expiry_action=action) for action in ("reset", "pause", "dump"))
IB700 = WatchdogDevice(model="ib700", expiry_action="reset")
ESB = "<watchdog model='i6300esb' action='{}'/>"
PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
CRASHED = (libvirt.VIR_DOMAIN_CRASHED, 1)


class Bench:
    """A machine and the driver's part over it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, watchdog: str = "", pid_file_directory: Path | None = None, **options: Any) -> None:
        self.removals = Removals()
        self.machine = Machine(self.removals, watchdog, **options)
        monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", self.machine.command)
        self.watchdogs = LibvirtWatchdogs(self.machine, self.removals, 0.0, pid_file_directory)

    def change(self, wanted: WatchdogDevice | None) -> Watchdog:
        return self.watchdogs.remove_watchdog(SERVER) if wanted is None else self.watchdogs.set_watchdog(SERVER, wanted)

    def find_error(self, wanted: WatchdogDevice | None) -> DriverError | None:
        try:
            self.change(wanted)
        except DriverError as error:
            return error
        return None

    def read(self) -> Watchdog:
        return self.watchdogs.get_watchdog(SERVER)

    def check_truth(self) -> None:
        """What the driver says is live is what QEMU does."""
        live = self.read().live
        assert self.machine.find_really() == (None if live is None else (live.model, live.expiry_action))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch, ESB.format("reset"))


CHANGES = {"action": PAUSE, "replace": DUMP, "remove": None}
CALLS = ["defineXML", "setMetadata#1", "setMetadata#2", "setMetadata#3", "qemuMonitorCommand", "detachDeviceFlags", "attachDeviceFlags"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", [REFUSED, LOST_BEFORE, LOST_AFTER])
def test_after_a_failure_at_any_step_the_same_call_finishes_and_the_former_device_goes_back(
    bench: Bench, change: str, call: str, how: str
) -> None:
    wanted, machine = CHANGES[change], bench.machine
    for asked in (wanted, RESET):
        machine.fail = {call: how}
        machine.asked.clear()
        error = bench.find_error(wanted)
        if isinstance(error, NothingSent):
            assert (how, error.code) == (REFUSED, Code.WATCHDOG_NOT_CHANGED)
            bench.check_truth()
            seen = bench.read()
            assert (seen.configured, seen.live) == (RESET, RESET), "it says that nothing was changed"
        elif error is not None:
            # In between there may be none, but then what it was is noted.
            assert machine.find_really() is not None or "leaving=" in machine.XMLDesc() or wanted is None
        machine.fail = {}
        ended = bench.change(asked)
        assert (ended.configured, ended.live, ended.pending_restart) == (asked, asked, False)
        bench.check_truth()
        bench.change(RESET)


@pytest.mark.parametrize("call", ["detachDeviceFlags", "setMetadata#2", "attachDeviceFlags"])
def test_a_kill_between_detach_and_attach_is_repaired_by_whoever_comes_first(bench: Bench, call: str) -> None:
    """The agent's repeated action, or the look at the list of servers."""
    bench.machine.fail = {call: LOST_BEFORE if call == "attachDeviceFlags" else LOST_AFTER}
    with pytest.raises(OutcomeUnknown):
        bench.change(DUMP)
    assert bench.machine.find_really() is None
    bench.watchdogs.put_back(SERVER)
    assert bench.machine.find_really() == ("i6300esb", "reset")
    ended = bench.change(DUMP)
    assert (ended.live, ended.pending_restart) == (DUMP, False)


def test_setting_what_is_there_asks_for_nothing(bench: Bench) -> None:
    before = bench.machine.copy()
    assert bench.change(RESET).live == RESET
    assert bench.machine.asked == []
    assert bench.machine.copy() == before


def test_an_expiry_action_that_qemu_was_told_is_read_back_and_the_rest_of_the_configuration_stays(bench: Bench) -> None:
    before = bench.machine.configuration
    assert bench.change(PAUSE).live == PAUSE
    assert "detachDeviceFlags" not in bench.machine.asked
    assert bench.machine.qemu_action == "pause"
    assert bench.machine.configuration == before.replace(
        "<watchdog model='i6300esb' action='reset'/>", '<watchdog model="i6300esb" action="pause" />'
    )
    bench.change(RESET)
    assert "leaving" not in bench.machine.XMLDesc()
    assert "expiry_action" not in bench.machine.XMLDesc(), "libvirt's own word is right again"


def test_a_note_of_another_run_is_void(bench: Bench) -> None:
    """Memory that was saved brings the note along, and a new QEMU does what libvirt's definition says."""
    bench.change(PAUSE)
    assert bench.machine.live is not None
    bench.machine.live.set("id", "8")
    bench.machine.qemu_action = "reset"
    seen = bench.read()
    assert (seen.configured, seen.live, seen.pending_restart) == (PAUSE, RESET, True)


def test_a_note_of_another_run_is_void_although_it_has_the_same_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After a restart of the host libvirtd counts from 1 again, and what was saved is restored."""
    pid_file = tmp_path / "inst.pid"
    pid_file.write_text("1")
    bench = Bench(monkeypatch, ESB.format("reset"), tmp_path)
    assert bench.change(PAUSE).live == PAUSE
    assert bench.read().live == PAUSE
    os.utime(pid_file, (1_800_000_000, 1_800_000_000))
    assert bench.read().live == RESET


@pytest.mark.parametrize("wanted", [DUMP, None])
def test_a_guest_that_clings_keeps_its_device_and_the_configuration_is_put_back(bench: Bench, wanted: WatchdogDevice | None) -> None:
    bench.machine.clings = True
    before = bench.machine.configuration
    with pytest.raises(BackendUnavailable, match="not let go") as refusal:
        bench.change(wanted)
    assert refusal.value.code is Code.WATCHDOG_NOT_CHANGED
    seen = bench.read()
    assert (seen.configured, seen.live, seen.pending_restart) == (RESET, RESET, False)
    assert bench.machine.configuration == before


def test_what_another_tool_configured_meanwhile_is_kept_when_the_watchdog_is_put_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_title(*arguments: object) -> None:
        bench.machine.configuration = bench.machine.configuration.replace("<name>", "<title>new</title><name>")

    monkeypatch.setattr(bench.machine, "detachDeviceFlags", change_title)
    with pytest.raises(BackendUnavailable, match="not let go"):
        bench.change(None)
    assert "<title>new</title>" in bench.machine.configuration
    assert bench.read().configured == RESET


def test_what_qemu_takes_away_late_is_put_back_as_it_was_last(bench: Bench) -> None:
    bench.machine.clings = True
    with pytest.raises(BackendUnavailable):
        bench.change(None)
    assert bench.change(PAUSE).live == PAUSE, "its expiry action needs nothing of the guest"
    bench.machine.let_go()
    assert bench.read().live is None
    bench.watchdogs.put_back(SERVER)
    assert bench.machine.find_really() == ("i6300esb", "pause")
    bench.machine.let_go()
    bench.watchdogs.put_back(SERVER)
    assert bench.read().live is None, "another tool took it away: it had not been asked for in vain"


def test_what_was_asked_for_in_vain_is_remembered_although_asking_again_is_refused(bench: Bench) -> None:
    """As a QEMU does that still waits for the guest; when that resets, the device goes."""
    bench.machine.clings = True
    assert isinstance(bench.find_error(DUMP), BackendUnavailable)
    bench.machine.fail = {"detachDeviceFlags": REFUSED}
    assert isinstance(bench.find_error(None), BackendUnavailable)
    bench.machine.let_go()
    bench.watchdogs.put_back(SERVER)
    assert bench.read().live == RESET
    bench.check_truth()


def test_a_device_that_is_gone_counts_although_nobody_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event was lost with a connection; libvirt's own definition says the same."""
    monkeypatch.setattr(bench.removals, "note", lambda *arguments, **words: None)
    assert bench.change(None).live is None


def test_a_new_device_that_is_refused_leaves_the_former_one_again(bench: Bench) -> None:
    bench.machine.fail = {"attachDeviceFlags": REFUSED}
    with pytest.raises(BackendUnavailable, match="former one is there again") as refusal:
        bench.change(DUMP)
    assert refusal.value.code is Code.WATCHDOG_NOT_CHANGED
    assert bench.machine.find_really() == ("i6300esb", "reset")
    assert bench.read().configured == RESET


def test_where_neither_can_be_attached_that_is_said_and_tried_again(bench: Bench) -> None:
    bench.machine.fail = {"attachDeviceFlags#1": REFUSED, "attachDeviceFlags#2": REFUSED}
    with pytest.raises(OutcomeUnknown):
        bench.change(DUMP)
    bench.watchdogs.put_back(SERVER)
    assert bench.machine.find_really() == ("i6300esb", "reset")


@pytest.mark.parametrize("state", [PAUSED, CRASHED])
@pytest.mark.parametrize("wanted", [DUMP, None])
def test_a_guest_that_cannot_let_go_now_is_not_asked(bench: Bench, state: tuple[int, int], wanted: WatchdogDevice | None) -> None:
    bench.machine.state_now = state
    before = bench.machine.copy()
    with pytest.raises(BackendUnavailable) as refusal:
        bench.change(wanted)
    assert refusal.value.code is Code.WATCHDOG_NOT_CHANGED
    assert bench.machine.copy() == before
    assert bench.machine.asked == []


@pytest.mark.parametrize(
    ("device", "configuration", "words"),
    [
        (WatchdogDevice(model="foo", expiry_action="reset"), {}, "i6300esb"),
        (WatchdogDevice(model="diag288", expiry_action="reset"), {}, "s390"),
        (WatchdogDevice(model="itco", expiry_action="reset"), {}, "q35"),
        (WatchdogDevice(model="i6300esb", expiry_action="explode"), {}, "inject-nmi"),
        (IB700, {"x86_64": "aarch64", "pc-i440fx-7.2": "virt-7.2"}, "virt-7.2"),
        (RESET, {"pc-i440fx-7.2": "isapc"}, "isapc"),
        (RESET, {"x86_64": "s390x", "pc-i440fx-7.2": "s390-ccw-virtio-7.2"}, "s390x"),
        (RESET, {"type='kvm'": "type='lxc'"}, "lxc"),
        (RESET, {"<panic model='isa'/>": "<watchdog model='diag288'/>"}, "diag288"),
        (RESET, {"<panic model='isa'/>": "<watchdog model='ib700'/><watchdog model='i6300esb'/>"}, "several"),
        (RESET, {"<panic model='isa'/>": "<watchdog model='itco'/>"}, "one watchdog per server"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    monkeypatch: pytest.MonkeyPatch, device: WatchdogDevice, configuration: dict[str, str], words: str
) -> None:
    bench = Bench(monkeypatch, running=False)
    for old, new in configuration.items():
        bench.machine.configuration = bench.machine.configuration.replace(old, new)
    with pytest.raises(ServerUnsupported, match=words):
        bench.change(device)
    assert bench.machine.asked == []


def test_a_chipsets_own_watchdog_gets_the_same_expiry_action_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """From libvirt 9.1 on, which demands one expiry action of all."""
    bench = Bench(monkeypatch, "<watchdog model='itco' action='reset'/>", running=False)
    bench.machine.version = 9_001_000
    seen = bench.change(PAUSE)
    assert (seen.configured, seen.others) == (PAUSE, (WatchdogDevice(model="itco", expiry_action="pause"),))
    assert bench.change(None).others == seen.others


def test_without_a_slot_it_comes_at_the_next_start_but_not_to_a_server_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.machine.has_room = False
    seen = bench.change(RESET)
    assert (seen.configured, seen.live, seen.pending_restart) == (RESET, None, True)
    transient = Bench(monkeypatch, persistent=False)
    transient.machine.has_room = False
    with pytest.raises(BackendUnavailable) as refusal:
        transient.change(RESET)
    assert refusal.value.code is Code.WATCHDOG_NOT_CHANGED
    with pytest.raises(ServerUnsupported, match="vanishes"):
        transient.change(IB700)


def test_a_transient_server_is_changed_live_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, persistent=False)
    seen = bench.change(RESET)
    assert (seen.configured, seen.live, seen.pending_restart) == (None, RESET, False)
    assert "defineXML" not in bench.machine.asked


def test_a_server_that_stops_meanwhile_has_what_is_configured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        bench.machine.live = None
        raise make_error(libvirt.VIR_ERR_OPERATION_INVALID)

    monkeypatch.setattr(bench.machine, "setMetadata", stop)
    seen = bench.change(PAUSE)
    assert (seen.configured, seen.live) == (PAUSE, None)


def test_an_unknown_server_is_not_found(bench: Bench) -> None:
    for call in (bench.watchdogs.get_watchdog, bench.watchdogs.remove_watchdog):
        with pytest.raises(ServerNotFound):
            call("6f4c1c2e-0f6c-4f6e-9d0e-000000000002")
    bench.watchdogs.put_back("6f4c1c2e-0f6c-4f6e-9d0e-000000000002")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ((libvirt.VIR_DOMAIN_RUNNING, 1), None),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG), None),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION), BackendUnavailable),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED), ServerNotRunning),
        ((libvirt.VIR_DOMAIN_SHUTOFF, 1), ServerNotRunning),
        (CRASHED, ServerNotRunning),
    ],
)
def test_only_a_server_that_somebody_or_a_watchdog_paused_is_resumed(
    bench: Bench, state: tuple[int, int], error: type[DriverError] | None
) -> None:
    bench.machine.state_now = state
    resume = LibvirtResume(bench.machine)
    if error is None:
        resume.resume_server(SERVER)
        assert bench.machine.state_now[0] == libvirt.VIR_DOMAIN_RUNNING
        assert bench.machine.asked == ([] if state[0] == libvirt.VIR_DOMAIN_RUNNING else ["resume"])
    else:
        with pytest.raises(error):
            resume.resume_server(SERVER)
        assert bench.machine.asked == []


@pytest.mark.parametrize(("how", "error"), [(REFUSED, BackendUnavailable), (LOST_AFTER, OutcomeUnknown)])
def test_a_resume_that_fails_says_whether_anybody_knows(bench: Bench, how: str, error: type[DriverError]) -> None:
    bench.machine.state_now, bench.machine.fail = PAUSED, {"resume": how}
    with pytest.raises(error):
        LibvirtResume(bench.machine).resume_server(SERVER)
