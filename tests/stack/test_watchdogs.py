"""Watchdogs of real guests through all the real parts: HTTP, RabbitMQ, agent, libvirt, QEMU, and the guest's own kernel and daemons.

The tests share their guests and run in the order of this file: first watchdogs fire everywhere while others are changed, then the agent is
killed. What takes long goes on beside the tests and is waited for by the one that looks at it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libvirt
import pytest

from devstack.checks import ROOT
from devstack.guests import Guest, GuestKind
from devstack.services import PATIENCE, wait_until
from devstack.stack import GuestSpec, Stack
from tests.stack.breaking_agent import Break
from tests.stack.real_stack import TIMEOUT, another_agent, running_stack, trigger, wait_for, wait_power_state
from tests.stack.watchdogs_over_http import (
    DRIFTED,
    FIRED,
    Firing,
    ask,
    assert_told,
    change,
    configure_elsewhere,
    find_address,
    list_events,
    put,
    read_models,
    read_xmls,
    resume,
    see,
    wait_card,
    wait_events,
    wait_firings,
    wait_seen,
)

pytestmark = pytest.mark.timeout(300 * PATIENCE)
"""Seconds of one test; the first one waits for the guests to boot, and the slowest for what goes on beside all of them."""
RESET, DUMP, PAUSE, NONE = "i6300esb:reset", "i6300esb:dump", "i6300esb:pause", "i6300esb:none"
STOPPED, RUNNING, PAUSED, CRASHED = 4, 1, 3, 6
MANY = 20
LONG = 120
"""Seconds for a guest that writes a dump and boots again while all the others boot."""
FED = 6
"""Seconds of a watchdog that is fed: it must not fire where the machine, or the guest on it, stands still for a while."""
HANG = int(15 * PATIENCE)
"""Seconds that a guest which hangs stays so: longer than the agent waits for it to let go of its watchdog."""
GUESTS = (
    GuestSpec("kdump", GuestKind.KDUMP),
    *(GuestSpec(name) for name in ("none", "hangs", "reset", "poweroff", "shutdown", "pause", "dump", "inject-nmi")),
    GuestSpec("q35", machine="q35"),
    GuestSpec("pc", running=False),
    GuestSpec("pc-full", running=False, pci_room=False),
    GuestSpec("q35-full", running=False, machine="q35", pci_room=False),
    GuestSpec("ib700", watchdog="ib700:reset"),
)
HOT = ("hangs", "none", "reset", "poweroff", "shutdown", "pause", "dump", "pc", "q35")
"""Those that let go of a watchdog while they run, and get another one."""

# What the hypervisor calls each expiry action, what comes of it, and the event and the state that show it.
EXPIRIES = {
    "reset": ("reset", "rebooted", "server.rebooted", RUNNING),
    "poweroff": ("poweroff", "stopped", "server.stopped", STOPPED),
    "shutdown": ("shutdown", "stopped", "server.stopped", STOPPED),
    "pause": ("pause", "paused", "server.paused", PAUSED),
    "dump": ("pause", "dumped", "server.paused", RUNNING),
    "inject-nmi": ("inject-nmi", "panicked", "server.panicked", CRASHED),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One whole system; each test leaves all its parts running."""
    # Half of the workers change watchdogs: each of those stands still at the same time.
    options = {"agent": {"workers": 2 * len(HOT), "first_look": LONG * PATIENCE}, "libvirt": {"detach_timeout": 6 * PATIENCE}}
    with running_stack(tmp_path_factory.mktemp("stack"), GUESTS, options) as system:
        yield system


@pytest.fixture(scope="module")
def going_on(stack: Stack) -> Iterator[dict[str, Future[Any]]]:
    """What goes on in each guest of that name while tests look at others."""
    steps: dict[str, Callable[[Stack, Guest], object]] = {
        "kdump": dump_in_the_guest,
        "none": fire_many_times,
        "hangs": hang,
        **dict.fromkeys(EXPIRIES, expire),
    }
    with ThreadPoolExecutor(len(steps)) as pool:
        yield {name: pool.submit(step, stack, stack.guests[name]) for name, step in steps.items()}


def expire(stack: Stack, guest: Guest) -> Firing:
    """The guest of that name gets that expiry action, sees the card, opens it and does not feed it; what stopped is started again."""
    device = f"i6300esb:{guest.name}"
    assert not guest.commands.has_i6300esb()
    change(stack, guest, device)
    wait_seen(stack, guest, device, device)
    wait_card(guest)
    guest.commands.starve_watchdog()
    [firing] = wait_firings(stack, guest)
    became = EXPIRIES[guest.name][-1]
    wait_power_state(stack, guest, became)
    if became == STOPPED:  # which is told when its guest has ended, before QEMU has
        wait_until(lambda: guest.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF, TIMEOUT, "QEMU to be gone")
        guest.start()
    return firing


def fire_many_times(stack: Stack, guest: Guest) -> list[Firing]:
    change(stack, guest, NONE)
    wait_card(guest)
    for count in range(1, MANY + 1):
        guest.commands.starve_watchdog()
        firings = wait_firings(stack, guest, count)
    return firings


def dump_in_the_guest(stack: Stack, guest: Guest) -> tuple[dict[str, Any], Firing]:
    """Its NMI makes it write a dump; meanwhile somebody asks for a crash dump."""
    change(stack, guest, "i6300esb:inject-nmi")
    guest.commands.starve_watchdog()
    wait_events(stack, guest, FIRED)
    refused = wait_for(stack, trigger(stack, guest), ending="failed")
    [firing] = wait_firings(stack, guest, timeout=LONG)
    return refused, firing


def hang(stack: Stack, guest: Guest) -> tuple[dict[str, Any], Firing]:
    """Its kernel panics, which nobody is told, while a daemon feeds its watchdog; meanwhile somebody wants to take that away."""
    change(stack, guest, RESET)
    guest.commands.run("rmmod pvpanic_mmio")
    guest.commands.feed_watchdog(HANG)
    guest.commands.panic()
    wait_until(lambda: "Kernel panic" in guest.console_log.read_text(errors="replace"), TIMEOUT, "the panic")
    refused = change(stack, guest, None, ending="failed", code="watchdog_not_changed")
    assert list_events(stack, guest, FIRED) == []
    wait_seen(stack, guest, RESET, RESET)
    [firing] = wait_firings(stack, guest)
    return refused, firing


# Changes


def test_a_running_server_gets_loses_and_changes_its_watchdog(stack: Stack, going_on: object) -> None:
    guest = stack.guests["q35"]
    assert not guest.commands.has_i6300esb()
    change(stack, guest, RESET)
    wait_seen(stack, guest, RESET, RESET)
    wait_card(guest)
    change(stack, guest, RESET, code="nothing_to_change")
    address = find_address(stack, guest)
    change(stack, guest, PAUSE)
    wait_seen(stack, guest, PAUSE, PAUSE)
    assert find_address(stack, guest) == address
    change(stack, guest, DUMP)
    wait_seen(stack, guest, DUMP, DUMP)
    change(stack, guest, None)
    wait_seen(stack, guest, None, None)
    assert not guest.commands.has_i6300esb()
    change(stack, guest, None, code="nothing_to_change")
    wait_for(stack, ask(stack, guest, RESET, replace=False), ending="succeeded", code="watchdog_set")
    wait_card(guest)


def test_a_server_that_is_off_is_changed_at_once_and_one_that_runs_gets_another_model_at_its_next_start(stack: Stack) -> None:
    guest = stack.guests["pc"]
    for device, model in ((RESET, "i6300esb"), (None, None), ("ib700:reset", "ib700"), (PAUSE, "i6300esb"), ("ib700:pause", "ib700")):
        change(stack, guest, device)
        assert read_models(stack, guest) == (model, None)
    wait_seen(stack, guest, "ib700:pause", None)
    guest.start()
    wait_seen(stack, guest, "ib700:pause", "ib700:pause")
    assert "next start" in change(stack, guest, None)["reason"]
    wait_seen(stack, guest, None, "ib700:pause", pending_restart=True)
    assert "next start" in change(stack, guest, RESET)["reason"]
    wait_seen(stack, guest, RESET, "ib700:pause", pending_restart=True)
    guest.destroy()
    wait_seen(stack, guest, RESET, None)
    guest.start()
    wait_seen(stack, guest, RESET, RESET)
    assert "next start" in change(stack, guest, "ib700:pause")["reason"]
    wait_seen(stack, guest, "ib700:pause", RESET, pending_restart=True)
    change(stack, guest, RESET)
    wait_seen(stack, guest, RESET, RESET)


def test_without_a_free_slot_the_watchdog_comes_and_goes_at_the_next_start(stack: Stack) -> None:
    guests = [stack.guests[name] for name in ("pc-full", "q35-full")]
    for guest in guests:
        guest.start()
    for guest in guests:
        wait_seen(stack, guest, None, None)
        assert "next start" in change(stack, guest, RESET)["reason"]
    for guest in guests:
        wait_seen(stack, guest, RESET, None, pending_restart=True)
        guest.destroy()
        guest.start()
    for guest in guests:
        wait_seen(stack, guest, RESET, RESET)
    # The other one has a slot now, on a bridge that came with the card.
    [full, _] = guests
    assert "next start" in change(stack, full, None)["reason"]
    wait_seen(stack, full, None, RESET, pending_restart=True)
    full.destroy()
    wait_seen(stack, full, None, None)


def test_an_isa_watchdog_fires_with_the_expiry_action_that_it_was_given_while_it_ran(stack: Stack) -> None:
    guest = stack.guests["ib700"]
    change(stack, guest, "ib700:poweroff")
    wait_seen(stack, guest, "ib700:poweroff", "ib700:poweroff")
    guest.commands.starve_watchdog(timeout=2)
    [firing] = wait_firings(stack, guest)
    assert_told(firing, "ib700:poweroff", "poweroff", "stopped")
    wait_seen(stack, guest, "ib700:poweroff", None)


def test_what_a_server_cannot_have_and_a_second_watchdog_are_refused_before_any_change(stack: Stack) -> None:
    running, other = stack.guests["q35"], stack.guests["ib700"]
    wait_for(stack, ask(stack, running, RESET), ending="succeeded")
    wait_seen(stack, running, RESET, RESET)
    for guest in (running, other):
        before, seen = read_xmls(stack, guest), see(stack, guest)
        for device, says in (("diag288:reset", "s390"), ("itco:reset", "chipset"), ("tco:reset", "tco"), ("ib700:explode", "explode")):
            answer = put(stack, guest, device)
            assert (answer.status, says in answer.message) == (400, True), answer.text
        answer = put(stack, guest, PAUSE, replace=False)
        assert (answer.status, "has a watchdog already" in answer.message) == (409, True), answer.text
        assert (read_xmls(stack, guest), see(stack, guest)) == (before, seen)


def test_a_watchdog_that_another_tool_changed_is_told_of(stack: Stack) -> None:
    guest = stack.guests["ib700"]
    change(stack, guest, NONE)
    configure_elsewhere(stack, guest, PAUSE)
    [drifted] = wait_events(stack, guest, DRIFTED)
    assert drifted["payload"]["wanted"] == {"model": "i6300esb", "expiry_action": "none"}
    assert drifted["payload"]["found"]["configured"] == {"model": "i6300esb", "expiry_action": "pause"}
    assert drifted["payload"]["action_id"] is None
    wait_seen(stack, guest, PAUSE, None)


# Firings


@pytest.mark.parametrize("expiry_action", EXPIRIES)
def test_every_expiry_action_is_told_once_with_what_came_of_it(
    stack: Stack, going_on: Mapping[str, Future[Firing]], expiry_action: str
) -> None:
    driver_word, result, event_type, _ = EXPIRIES[expiry_action]
    firing = going_on[expiry_action].result()
    assert_told(firing, f"i6300esb:{expiry_action}", driver_word, result)
    [shown] = [event for event in list_events(stack, stack.guests[expiry_action], event_type) if event["payload"]["fired_event"]]
    assert shown["payload"]["fired_event"] == firing.fired["id"]


def test_the_dump_of_a_watchdog_is_there(going_on: Mapping[str, Future[Firing]]) -> None:
    came = going_on["dump"].result().outcome["payload"]
    assert Path(came["dump_path"]).stat().st_size == came["dump_bytes"] > 0


def test_a_server_that_its_watchdog_paused_is_resumed_and_fires_again_when_its_daemon_is_killed(
    stack: Stack, going_on: Mapping[str, Future[Firing]]
) -> None:
    guest = stack.guests["pause"]
    going_on["pause"].result()
    resume(stack, guest)
    guest.commands.feed_watchdog(timeout=FED)
    guest.commands.kill_watchdog_daemon()
    _, second = wait_firings(stack, guest, 2)
    assert_told(second, PAUSE, "pause", "paused")
    resume(stack, guest)


def test_a_guest_that_its_watchdogs_nmi_panicked_keeps_its_watchdog(stack: Stack, going_on: Mapping[str, Future[Firing]]) -> None:
    guest = stack.guests["inject-nmi"]
    going_on["inject-nmi"].result()
    change(stack, guest, None, ending="failed", code="watchdog_not_changed")
    wait_seen(stack, guest, "i6300esb:inject-nmi", "i6300esb:inject-nmi")


def test_while_a_guest_dumps_by_its_watchdogs_nmi_no_other_nmi_is_sent(stack: Stack, going_on: Mapping[str, Future[Any]]) -> None:
    guest = stack.guests["kdump"]
    refused, firing = going_on["kdump"].result()
    assert refused["code"] == "crash_dump_in_progress"
    assert firing.fired["id"] in refused["reason"]
    assert guest.has_complete_dump()
    assert_told(firing, "i6300esb:inject-nmi", "inject-nmi", "rebooted")


def test_a_guest_that_hangs_keeps_its_watchdog_which_resets_it_and_is_there_afterwards(
    stack: Stack, going_on: Mapping[str, Future[Any]]
) -> None:
    """QEMU takes the device away at the reset, because it was asked to: it is put back."""
    guest = stack.guests["hangs"]
    refused, firing = going_on["hangs"].result()
    assert "has not let go" in refused["reason"]
    assert_told(firing, RESET, "reset", "rebooted")
    guest.wait_ready(boots=2)
    wait_seen(stack, guest, RESET, RESET)
    wait_card(guest)


def test_twenty_firings_are_twenty_events_and_twenty_outcomes(going_on: Mapping[str, Future[list[Firing]]]) -> None:
    firings = going_on["none"].result()
    assert len(firings) == MANY
    for firing in firings:
        assert_told(firing, NONE, "none", "continued")


def test_a_guest_that_panics_is_told_of_and_its_watchdog_stands_still_with_it(stack: Stack) -> None:
    """A daemon fed it until then. The other guest's firing is the clock: by then this one would have fired long since."""
    guest, clock = stack.guests["q35-full"], stack.guests["none"]
    guest.wait_ready()
    guest.commands.feed_watchdog(timeout=FED)
    guest.commands.panic()
    wait_events(stack, guest, "server.panicked")
    clock.commands.starve_watchdog(timeout=FED + 4)
    wait_firings(stack, clock, MANY + 1)
    assert list_events(stack, guest, FIRED) == []
    wait_power_state(stack, guest, CRASHED)


# Agents that die and hypervisors that fail in the midst of a change


def test_an_agent_killed_at_any_step_leaves_the_old_watchdog_or_the_new_one(stack: Stack, tmp_path: Path) -> None:
    """Nine changes, each standing at another step when the agent is killed; two are over when there is an agent again."""
    guests = prepare(stack, RESET)
    steps = [3, 4, *range(7)]
    with breaking_agent(stack, tmp_path, {guest: Break(stand_after=step) for guest, step in zip(guests, steps, strict=True)}):
        asked = [ask(stack, guest, DUMP, deadline_seconds=int(90 * PATIENCE)) for guest in guests[2:]]
        wait_standing(tmp_path, guests[2:])
        late = [ask(stack, guest, DUMP, deadline_seconds=int(8 * PATIENCE)) for guest in guests[:2]]
        wait_standing(tmp_path, guests)
        over = max(datetime.fromisoformat(stack.client.get_action(action)["deadline"]) for action in late)
        wait_until(lambda: datetime.now(UTC) > over, TIMEOUT, "two deadlines to pass")
    for action in asked:
        wait_for(stack, action, ending="succeeded", code="watchdog_set", decided_by="agent")
    for action in late:
        wait_for(stack, action, ending="failed", code="watchdog_not_changed", decided_by="agent")
    for guest in guests:
        device = RESET if guest in guests[:2] else DUMP
        wait_seen(stack, guest, device, device)
        wait_card(guest)


def test_a_failure_at_any_step_leaves_the_old_watchdog_or_the_new_one(stack: Stack, tmp_path: Path) -> None:
    """Nine changes: six in which libvirt refuses one step, one in which it refuses the new device and the old one, two in which its answer
    is lost after the detach and after the attach."""
    guests = prepare(stack, RESET)
    refused = [Break(refused=[step]) for step in range(1, 7)]
    breaks = [*refused, Break(refused=[5, 6]), Break(unanswered=[3]), Break(unanswered=[5])]
    with breaking_agent(stack, tmp_path, dict(zip(guests, breaks, strict=True))):
        asked = [ask(stack, guest, DUMP, deadline_seconds=int(90 * PATIENCE)) for guest in guests]
        for action, guest, each in zip(asked, guests, breaks, strict=True):
            if each in [refused[step - 1] for step in (1, 2, 3, 5)]:
                wait_for(stack, action, ending="failed", code="watchdog_not_changed")
                wait_seen(stack, guest, RESET, RESET)
            else:
                wait_for(stack, action, ending="succeeded", code="watchdog_set")
                wait_seen(stack, guest, DUMP, DUMP)
            wait_card(guest)


def test_a_watchdog_that_another_tool_changed_is_set_again_where_that_is_wanted(stack: Stack, tmp_path: Path) -> None:
    guest = stack.guests["ib700"]
    (tmp_path / "reapply.conf").write_text("[watchdog]\nreapply = true\n")
    with another_agent(stack, [*stack.agent.argv, "--config-file", str(tmp_path / "reapply.conf")]):
        change(stack, guest, NONE)
        configure_elsewhere(stack, guest, None)
        drifted = wait_events(stack, guest, DRIFTED, 2)[-1]["payload"]
        assert drifted["found"]["configured"] is None
        wait_for(stack, drifted["action_id"], ending="succeeded", code="watchdog_set")
        wait_seen(stack, guest, NONE, None)


# What the above need


def prepare(stack: Stack, device: str) -> list[Guest]:
    """Let all guests that can be changed while they run have this watchdog."""
    guests = [stack.guests[name] for name in HOT]
    for guest in guests:
        guest.wait_ready(boots=2 if guest.name in ("hangs", "reset", "poweroff", "shutdown") else 1)
        wait_card(guest)
    for action in [ask(stack, guest, device) for guest in guests]:
        wait_for(stack, action, ending="succeeded")
    for guest in guests:
        wait_seen(stack, guest, device, device)
    return guests


def wait_standing(directory: Path, guests: Sequence[Guest]) -> None:
    paths = [directory / f"{guest.uuid}.stands" for guest in guests]
    wait_until(lambda: all(path.exists() for path in paths), TIMEOUT, "each change to stand at its step")


@contextmanager
def breaking_agent(stack: Stack, directory: Path, breaks: Mapping[Guest, Break]) -> Iterator[None]:
    """For the time of a with block, changes of these guests break as they say."""
    for guest, each in breaks.items():
        each.write(directory, guest.uuid)
    argv = [sys.executable, "-m", "tests.stack.breaking_agent", *stack.agent.argv[1:]]
    with another_agent(stack, argv, BREAKS=str(directory), PYTHONPATH=str(ROOT)):
        yield
