"""Putting the libvirt driver together: options, capabilities, what is missing."""

import queue
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt.driver import create_driver, find_pid_file_directory
from compute_agent.drivers.libvirt.options import GROUP, list_opts, register_options
from compute_agent.drivers.models import DriverEvent, DriverEventKind


def make_conf(**values: object) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([])
    register_options(conf)
    for name, value in values.items():
        conf.set_override(name, value, GROUP)
    return conf


def test_its_capabilities_are_what_it_holds() -> None:
    driver = create_driver(make_conf(), SystemClock())
    capabilities = driver.capabilities().model_dump()
    assert [model["model"] for model in capabilities.pop("watchdog_models")] == ["i6300esb", "ib700", "diag288", "itco"]
    assert capabilities == {
        "driver": "libvirt",
        "inject_nmi": True,
        "diagnostics": True,
        "watchdog": True,
        "events": True,
        "host_dump": True,
        "resume": True,
        "watchdog_timer": False,
    }


def test_a_hypervisor_elsewhere_writes_no_dumps_here_and_its_operating_system_is_not_ours() -> None:
    driver = create_driver(make_conf(uri="qemu+ssh://elsewhere/system"), SystemClock())
    assert driver.diagnostics is not None
    assert driver.host_dump is None
    assert driver.expiry_dumps is None


def test_by_default_a_frozen_libvirtd_is_noticed_well_within_the_call_bound() -> None:
    group = make_conf()[GROUP]
    assert group.keepalive_interval * (group.keepalive_count + 1) <= group.call_bound / 2
    assert group.call_bound > 30, "libvirt itself refuses for certain after 30 s"


def test_a_keepalive_longer_than_the_call_bound_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="keepalive_interval"):
        create_driver(make_conf(keepalive_interval=10, keepalive_count=5), SystemClock())


def test_a_guest_may_not_cling_to_a_device_for_longer_than_a_call_may_take() -> None:
    with pytest.raises(ValueError, match="detach_timeout"):
        create_driver(make_conf(call_bound=20.0, detach_timeout=20.0), SystemClock())


def test_options_can_be_documented() -> None:
    assert {option.name for group, options in list_opts() for option in options} == {
        "uri",
        "keepalive_interval",
        "keepalive_count",
        "call_bound",
        "detach_timeout",
        "auto_dump_path",
        "count_disk_errors",
    }


def test_a_missing_library_is_named_with_its_extra() -> None:
    program = "import sys; sys.modules['libvirt'] = None; import compute_agent.drivers.libvirt.driver"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install 'crashcart[libvirt]'" in done.stderr.splitlines()[-1]


def test_options_need_no_libvirt() -> None:
    program = "import sys; sys.modules['libvirt'] = None; import compute_agent.drivers.libvirt.options"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_opens_reads_and_closes_against_libvirts_own_test_hypervisor() -> None:
    """A smoke test of the binding: that hypervisor has no guests, so it proves nothing about NMIs."""
    driver = create_driver(make_conf(uri="test:///default"), SystemClock())
    assert driver.events is not None
    assert driver.lifecycle is not None
    seen: queue.SimpleQueue[DriverEvent] = queue.SimpleQueue()
    driver.events.subscribe(seen.put, {})
    driver.lifecycle.open()
    try:
        assert seen.get(timeout=10).kind is DriverEventKind.BACKEND_BACK
        (server,) = driver.servers.list_servers()
        assert driver.servers.get_server(server.id) == server
        assert server.instance_name == "test"
    finally:
        driver.lifecycle.close()
    with pytest.raises(BackendUnavailable):
        driver.servers.list_servers()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qemu:///system", "/run/libvirt/qemu"),
        ("qemu+unix:///system?socket=/tmp/x/run/libvirt-sock", "/tmp/x/run/qemu"),
        ("qemu:///session", "/run/user/7/libvirt/qemu/run"),
        ("qemu+unix:///session?socket=/tmp/x/run/libvirt/libvirt-sock", "/tmp/x/run/libvirt/qemu/run"),
        ("qemu+ssh://elsewhere/system", None),
        ("qemu+tls://elsewhere/system", None),
        ("test:///default", None),
        ("qemu:///embed", None),
    ],
)
def test_pid_files_are_looked_for_beside_the_socket(uri: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert find_pid_file_directory(uri) == (None if expected is None else Path(expected))
