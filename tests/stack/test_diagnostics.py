"""Diagnostics, host dumps and black boxes of real guests through all the real parts: HTTP, SQLite, RabbitMQ, libvirt, QEMU."""

import hashlib
import itertools
import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libvirt
import pytest

from devstack.guests import LOAD_BYTES, LOAD_FRAMES, Guest, GuestKind
from devstack.services import PATIENCE, wait_until
from devstack.stack import GuestSpec, Stack
from devstack.stack_config import HOST, Options
from tests.stack.ear import Ear
from tests.stack.real_stack import TIMEOUT, find_qemu, running_stack, trigger, wait_answered, wait_asked, wait_for, wait_power_state

SAMPLE_INTERVAL = 3.0
GUESTS = (
    GuestSpec("loaded", GuestKind.LOADED),
    GuestSpec("panicking", GuestKind.PANICKING),
    GuestSpec("own-dump", GuestKind.KDUMP),
)
FORMAT_KEYS = {
    *("state", "driver", "hypervisor", "hypervisor_os", "uptime", "config_drive", "num_cpus", "num_nics", "num_disks"),
    *("cpu_details", "nic_details", "disk_details", "memory_details"),
}
OTHER_WORK = 4
"""Threads that may wait for a frozen libvirtd beside those of the requests: for the black boxes of guests that panicked before."""
_MIB = 1 << 20
_QUOTA_MIB = 1024


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the hypervisor writes servers' memory."""
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, dumps: Path) -> Iterator[Stack]:
    """One whole system; each test leaves all its parts running, and the loaded guest paused."""
    options: Options = {
        "agent": {"first_look": 1, "sample_interval": SAMPLE_INTERVAL, "diagnostics_limit": 1},
        "host_dump": {"directory": dumps, "after_panic": True, "quota_mib": _QUOTA_MIB, "min_free_mib": 64},
        "black_box": {"console_tail_kib": 16},
    }
    with running_stack(tmp_path_factory.mktemp("stack"), GUESTS, options) as system:
        system.guests["loaded"].suspend()
        for guest in system.guests.values():
            wait_asked(system, guest.uuid)
        yield system


@pytest.fixture
def loaded(stack: Stack) -> Iterator[Guest]:
    """The guest whose processor is busy, running for one test only: it takes a core from the other parts."""
    guest = stack.guests["loaded"]
    guest.resume()
    wait_power_state(stack, guest, 1)
    yield guest
    guest.suspend()
    wait_power_state(stack, guest, 3)


def get_diagnostics(stack: Stack, guest: Guest) -> dict[str, Any]:
    """In the standard format."""
    answer = stack.client.get(f"/v2.1/servers/{guest.uuid}/diagnostics", headers={"OpenStack-API-Version": "compute 2.48"})
    assert answer.status == 200, answer.text
    assert answer.body.keys() == FORMAT_KEYS
    found: dict[str, Any] = answer.body
    return found


def get_envelope(stack: Stack, guest: Guest, history: int = 0) -> dict[str, Any]:
    """Our own view of the same."""
    answer = stack.client.get(f"/v1/servers/{guest.uuid}/diagnostics?history={history}")
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.body
    return found


def take_host_dump(stack: Stack, guest: Guest) -> str:
    """The action's id."""
    answer = stack.client.post(f"/v1/servers/{guest.uuid}/actions", {"kind": "take_host_dump"})
    assert answer.status == 202, answer.text
    return str(answer.body["id"])


class ProcessorTime:
    """What the kernel says of the thread that is a guest's one processor, noted over a while."""

    def __init__(self, guest: Guest) -> None:
        tasks = Path(f"/proc/{find_qemu(guest).pid}/task")
        self._thread = next(task for task in tasks.iterdir() if (task / "comm").read_text().startswith("CPU 0"))
        self._notes: list[tuple[float, int]] = []

    def note(self) -> None:
        self._notes.append((time.time(), int((self._thread / "schedstat").read_text().split()[0])))

    def get_percent(self, begin: float, end: float) -> float:
        """Between two moments, each as near as there is a note."""
        first, last = (min(self._notes, key=lambda note: abs(note[0] - moment)) for moment in (begin, end))
        return 100 * (last[1] - first[1]) / 1e9 / (last[0] - first[0])


def watch_two_samples(stack: Stack, guest: Guest, watched: ProcessorTime) -> list[dict[str, Any]]:
    """Two samples in a row, both taken while the guest's processor is watched, oldest first."""
    begun = datetime.now(UTC)
    ask_at = itertools.count(time.monotonic(), SAMPLE_INTERVAL / 3)
    next_at = next(ask_at)

    def find_samples() -> list[dict[str, Any]]:
        nonlocal next_at
        watched.note()
        if time.monotonic() < next_at:
            return []  # a server that is asked all the time is busy, and samples pass it by
        next_at = next(ask_at)
        history = get_envelope(stack, guest, history=2)["history"]
        watched.note()
        is_new = len(history) == 2 and datetime.fromisoformat(history[0]["collected_at"]) > begun
        return history if is_new else []

    return wait_until(find_samples, TIMEOUT, "two samples", interval=0.05)


def test_a_busy_processors_utilisation_is_what_the_kernel_counts(stack: Stack, loaded: Guest) -> None:
    watched = ProcessorTime(loaded)
    compared: list[tuple[float, float, float]] = []
    for _ in range(5):  # a sample that was held up is of another moment than it says
        samples = watch_two_samples(stack, loaded, watched)
        begin, end = (datetime.fromisoformat(sample["collected_at"]).timestamp() for sample in samples)
        (processor,) = samples[1]["diagnostics"]["cpu_details"]
        if end - begin < SAMPLE_INTERVAL / 2:
            continue
        compared.append((end - begin, processor["utilisation"], watched.get_percent(begin, end)))
        # The kernel gives it all that the host has left: less than all of a core where the other parts are busy as well.
        if compared[-1][2] > 10 and abs(compared[-1][1] - compared[-1][2]) <= 10:
            break
    else:
        pytest.fail(f"seconds between two samples, per cent as told and as the kernel counts: {compared}")
    (now,) = wait_fresh(stack, loaded)["diagnostics"]["cpu_details"]
    assert now["utilisation"] > 5
    assert now["time"] > processor["time"]


def test_an_idle_processor_is_idle(stack: Stack) -> None:
    guest = stack.guests["panicking"]

    def is_idle() -> bool:
        utilisation = get_diagnostics(stack, guest)["cpu_details"][0]["utilisation"]
        return utilisation is not None and utilisation <= 10

    wait_until(is_idle, TIMEOUT, "the processor to be idle", interval=0.5)


def test_bytes_of_a_disk_and_memory_are_exact(stack: Stack) -> None:
    guest = stack.guests["loaded"]
    read, written = guest.get_disk_traffic()
    assert written == LOAD_BYTES
    told = wait_fresh(stack, guest)["diagnostics"]
    (disk,) = told["disk_details"]
    assert (disk["read_bytes"], disk["write_bytes"], disk["errors_count"]) == (read, LOAD_BYTES, 0)
    assert told["memory_details"]["maximum"] == 128
    assert 0 < told["memory_details"]["used"] < 128
    assert get_diagnostics(stack, stack.guests["own-dump"])["memory_details"]["maximum"] == 320


def test_what_a_guest_sent_over_its_tap_is_counted_to_the_byte(stack: Stack) -> None:
    guest = stack.guests["loaded"]
    if not guest.has_tap:
        pytest.skip("a tap needs the privilege to make one")
    (nic,) = get_diagnostics(stack, guest)["nic_details"]
    count, size = LOAD_FRAMES
    assert (nic["tx_packets"], nic["tx_octets"], nic["tx_errors"]) == (count, count * size, 0)


def test_uptime_is_the_age_of_the_hypervisors_process(stack: Stack) -> None:
    guest = stack.guests["panicking"]
    process = find_qemu(guest)
    before = _age_of(process.start_ticks)
    told = wait_fresh(stack, guest)
    assert before - told["age"] - 1 <= told["diagnostics"]["uptime"] <= _age_of(process.start_ticks) + 1


def _age_of(start_ticks: int) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


def test_the_older_format_names_devices_in_its_keys_and_counts_memory_in_kib(stack: Stack) -> None:
    guest = stack.guests["loaded"]
    answer = stack.client.get(f"/v2.1/servers/{guest.uuid}/diagnostics")
    assert answer.status == 200, answer.text
    told = answer.body
    assert told["vda_write"] == LOAD_BYTES
    assert told["memory"] == 128 * 1024
    assert told["cpu0_time"] > 0


def wait_fresh(stack: Stack, guest: Guest, **options: int) -> dict[str, Any]:
    """An answer of the guest's own, which may come a look later: a driver that does not answer within a second is not waited for."""

    def find_fresh() -> dict[str, Any] | None:
        told = get_envelope(stack, guest, **options)
        return told if not told["stale"] and told["age"] < 2 else None

    return wait_until(find_fresh, TIMEOUT, "a fresh answer")


def test_a_paused_guest_answers_with_its_history(stack: Stack) -> None:
    guest = stack.guests["loaded"]
    wait_power_state(stack, guest, 3)
    told = wait_fresh(stack, guest, history=2)
    assert told["diagnostics"]["state"] == "paused"
    assert (told["source"], told["errors"]) == ("host", {})
    taken = [datetime.fromisoformat(sample["collected_at"]) for sample in told["history"]]
    assert len(taken) == 2
    assert taken == sorted(taken)


def test_diagnostics_of_all_servers_of_a_host_come_back_as_events(stack: Stack) -> None:
    ear = Ear(stack.broker, HOST)
    try:
        answer = stack.client.post("/v1/diagnostics", {"host": HOST})
        assert answer.status == 202, answer.text
        asked = {action["server"]: action["id"] for action in answer.body["actions"]}
        assert asked.keys() == {guest.uuid for guest in stack.guests.values()}
        for server, action_id in asked.items():
            action = wait_for(stack, action_id, ending="succeeded")
            event = ear.wait_for_event("server.diagnostics", action_id)
            assert action["result"] == {"report": event["report"]}
            assert action["result"]["report"]["server"] == server
            assert action["result"]["report"]["diagnostics"].keys() == FORMAT_KEYS
    finally:
        ear.close()


@contextmanager
def frozen_libvirtd(stack: Stack) -> Iterator[None]:
    """It keeps its connections and answers nobody."""
    stack.libvirtd.freeze()
    try:
        yield
    finally:
        stack.libvirtd.thaw()


def count_threads(pid: int) -> int:
    """Of a process and all its descendants."""
    own = int(Path(f"/proc/{pid}/status").read_text().partition("Threads:")[2].split()[0])
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return own + sum(count_threads(int(child)) for child in children)


def test_a_frozen_libvirtd_is_answered_from_the_last_sample_by_no_more_threads(stack: Stack) -> None:
    """Forty requests: a thread for each would show."""
    guest = stack.guests["loaded"]
    for _ in range(20):  # so that each pool has all its threads
        wait_fresh(stack, guest)
    with frozen_libvirtd(stack):
        # The sampler waits for it in a thread as well, once.
        wait_until(lambda: get_envelope(stack, guest)["age"] > SAMPLE_INTERVAL + 1, TIMEOUT, "the sampler to be stuck", interval=0.1)
        threads: list[tuple[int, int]] = []
        for _ in range(20):
            began = time.monotonic()
            told = get_envelope(stack, guest)
            assert time.monotonic() - began < 3 * PATIENCE
            assert told["stale"] is True
            assert told["age"] > SAMPLE_INTERVAL + 1
            assert "collection" in told["errors"]
            assert get_diagnostics(stack, guest)["memory_details"]["maximum"] == 128
            threads.append((count_threads(stack.agent.pid), count_threads(stack.api.pid)))
        for counts in zip(*threads, strict=True):
            assert max(counts[1:]) <= counts[0] + OTHER_WORK, f"threads of the agent and of the API: {threads}"
    wait_until(lambda: not get_envelope(stack, guest)["stale"], TIMEOUT, "fresh diagnostics again", interval=0.2)


def test_an_agent_that_is_away_is_answered_for_with_what_was_last_known(stack: Stack) -> None:
    guest = stack.guests["panicking"]
    known = get_envelope(stack, guest)
    stack.agent.kill()
    try:
        told = get_envelope(stack, guest)
    finally:
        stack.agent.start()
    assert (told["source"], told["stale"]) == ("last_known", True)
    assert told["collected_at"] >= known["collected_at"]
    assert told["diagnostics"].keys() == FORMAT_KEYS
    wait_until(lambda: get_envelope(stack, guest)["source"] == "host", TIMEOUT, "the agent to answer itself", interval=0.2)


def list_dumps(dumps: Path, guest: Guest) -> list[Path]:
    return sorted(dumps.glob(f"{guest.uuid}-*"))


def read_dump_log(dump: Path, directory: Path) -> str:
    """The kernel's log out of a dump in the flattened format."""
    plain, log = directory / "plain", directory / "log"
    with dump.open("rb") as flattened:
        subprocess.run(["makedumpfile", "-R", plain], stdin=flattened, check=True, capture_output=True, timeout=60)
    subprocess.run(["makedumpfile", "--dump-dmesg", plain, log], check=True, capture_output=True, timeout=60)
    return log.read_text(errors="replace")


def test_a_guest_that_writes_its_own_dump_is_left_alone(stack: Stack, dumps: Path) -> None:
    guest = stack.guests["own-dump"]
    signal_id = trigger(stack, guest)
    wait_for(stack, signal_id, ending="succeeded")
    refused = stack.client.post(f"/v1/servers/{guest.uuid}/actions", {"kind": "take_host_dump"})
    assert (refused.status, signal_id in refused.message) == (409, True), refused.text
    wait_until(guest.has_complete_dump, TIMEOUT, "the guest's own dump")
    assert "Kernel panic - not syncing: NMI" in guest.read_dump_log()
    wait_for(stack, signal_id, observation="guest_rebooted", final=True)
    assert list_dumps(dumps, guest) == []


def test_a_panic_leaves_a_host_dump_and_a_black_box(stack: Stack, dumps: Path, tmp_path: Path) -> None:
    """And a crashed guest's diagnostics and memory can be had as well."""
    guest = stack.guests["panicking"]
    ear = Ear(stack.broker, HOST)
    try:
        action_id = trigger(stack, guest)
        wait_for(stack, action_id, ending="succeeded", observation="guest_panicked", final=True)
        told = ear.wait_for_event("server.host_dump")
    finally:
        ear.close()
    (unasked,) = list_dumps(dumps, guest)
    assert (told["server"], told["path"], told["bytes"]) == (guest.uuid, str(unasked), unasked.stat().st_size)
    assert stat.S_IMODE(unasked.stat().st_mode) == 0o600
    assert wait_fresh(stack, guest)["diagnostics"]["state"] == "crashed"
    assert get_diagnostics(stack, guest)["memory_details"]["maximum"] == 128
    asked = wait_for(stack, take_host_dump(stack, guest), ending="succeeded")
    dump = Path(asked["result"]["path"])
    assert asked["result"]["bytes"] == dump.stat().st_size
    assert {dump, unasked} == set(list_dumps(dumps, guest))
    assert "Kernel panic - not syncing: NMI" in read_dump_log(dump, tmp_path)
    check_black_box(stack, guest, action_id)


def check_black_box(stack: Stack, guest: Guest, action_id: str) -> None:
    """What the host kept of the crash, each part of the size and digest that were told."""
    wait_until(lambda: stack.client.get_action(action_id)["black_box"], TIMEOUT, "the black box to be told of")
    address = stack.client.get_action(action_id)["black_box"].removeprefix(stack.url)
    box = wait_answered(stack, address)
    assert (box.body["server"], box.body["action"]) == (guest.uuid, action_id), box.text
    parts = {}
    for part in box.body["parts"]:
        fetched = wait_answered(stack, part["href"].removeprefix(stack.url))
        parts[part["name"]] = fetched.text
        assert (len(fetched.text.encode()), hashlib.sha256(fetched.text.encode()).hexdigest()) == (part["bytes"], part["sha256"])
    assert parts.keys() == {"sample-before.json", "diagnostics-after.json", "state.json", "domain.xml", "console.log"}
    assert json.loads(parts["sample-before.json"])["diagnostics"]["state"] == "running"
    state = json.loads(parts["state.json"])
    assert (state["power_state"], len(state["vcpus"])) == ("crashed", 1)
    assert guest.uuid in parts["domain.xml"]


def test_a_dump_over_the_quota_fails_with_its_reason(stack: Stack, dumps: Path) -> None:
    guest = stack.guests["loaded"]
    other = dumps / "other.kdump"
    with other.open("wb") as file:
        file.truncate(_QUOTA_MIB * _MIB)
    try:
        action = wait_for(stack, take_host_dump(stack, guest), ending="failed")
    finally:
        other.unlink()
    assert (action["code"], "quota_mib" in action["reason"]) == ("no_space", True)
    assert list_dumps(dumps, guest) == []


def test_a_disk_that_fills_up_under_a_dump_fails_it_and_nothing_else(stack: Stack, dumps: Path) -> None:
    """The daemon alone sees a tiny disk there: the agent's own look at the free space comes before the write."""
    if not stack.libvirtd.is_system:
        pytest.skip("a disk of its own needs the privilege to mount one")
    guest = stack.guests["loaded"]
    in_its_namespace = ["nsenter", f"--target={stack.libvirtd.pid}", "--mount"]
    subprocess.run([*in_its_namespace, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(dumps)], check=True)
    try:
        action = wait_for(stack, take_host_dump(stack, guest), ending="failed")
    finally:
        subprocess.run([*in_its_namespace, "umount", str(dumps)], check=True)
    assert (action["code"], "No space left on device" in action["reason"]) == ("no_space", True), action
    assert list_dumps(dumps, guest) == []
    assert guest.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    wait_fresh(stack, guest)
