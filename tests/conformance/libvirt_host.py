"""A host with a real libvirtd and real QEMU guests, and a libvirt driver on it whose events a test can wait for."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.base import Driver
from compute_agent.drivers.libvirt.driver import create_driver
from compute_agent.drivers.libvirt.options import GROUP, register_options
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from devstack.guests import Guest
from devstack.libvirtd import PrivateLibvirtd
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.services import PATIENCE
from tests.conformance.suite import EventLog

KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 1, 3
SECONDS_TO_NOTICE = KEEPALIVE_INTERVAL * (KEEPALIVE_COUNT + 1)


def require_real_parts() -> None:
    """Skip on a laptop that lacks them; fail in CI, where a skipped proof would pass for one."""
    missing = list_missing_parts()
    if missing:
        report = f"missing: {', '.join(missing)}"
        if may_skip_real_tests():
            pytest.skip(report)
        pytest.fail(report)


class LibvirtEventLog(EventLog):
    """The suite's log, which also says what came of one server."""

    def expect(self, kind: DriverEventKind, server: str | None = None, *, since: int = 0, timeout: float = 10.0) -> DriverEvent:
        """Wait for it; fails the test when it does not come within ``timeout`` seconds."""
        return self.wait_for(kind, server, since=since, timeout=timeout)

    def list_firings(self, server: str) -> list[DriverEvent]:
        """Every event so far that says that its watchdog fired."""
        with self._arrived:
            return [event for event in self._events if (event.kind, event.server) == (DriverEventKind.WATCHDOG_FIRED, server)]

    def list_kinds(self, server: str | None) -> list[DriverEventKind]:
        with self._arrived:
            return [event.kind for event in self._events if event.server == server]


class LibvirtHost:
    """One private libvirtd, its guests, and drivers on it."""

    def __init__(self, directory: Path) -> None:
        self.libvirtd = PrivateLibvirtd(directory)
        self._guests = directory / "guests"

    def define(self, kind: str, **options: Any) -> Guest:
        guest = Guest(kind=kind, directory=self._guests, **options)
        guest.define(self.libvirtd.uri)
        return guest

    def boot(self, kind: str, **options: Any) -> Guest:
        guest = self.define(kind, **options)
        guest.start()
        guest.wait_ready()
        return guest

    def get_guest_pid(self, guest: Guest) -> int:
        """The guest's QEMU process."""
        run = self.libvirtd.socket.parent / ("qemu" if self.libvirtd.is_system else "qemu/run")
        return int((run / f"{guest.name}.pid").read_text())

    @contextmanager
    def frozen_guest(self, guest: Guest) -> Iterator[None]:
        """Its QEMU process answers nobody, libvirt neither, for the time of a with block."""
        pid = self.get_guest_pid(guest)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def driver(self, **options: object) -> Iterator[tuple[Driver, LibvirtEventLog]]:
        """A connected driver with these options, and its events."""
        conf = cfg.ConfigOpts()
        conf([])
        register_options(conf)
        conf.set_override("uri", self.libvirtd.uri, GROUP)
        conf.set_override("keepalive_interval", KEEPALIVE_INTERVAL, GROUP)
        conf.set_override("keepalive_count", KEEPALIVE_COUNT, GROUP)
        conf.set_override("auto_dump_path", str(self.libvirtd.dump_dir), GROUP)
        for name, value in options.items():
            conf.set_override(name, value, GROUP)
        driver = create_driver(conf, SystemClock())
        assert driver.events is not None
        assert driver.lifecycle is not None
        events = LibvirtEventLog()
        driver.events.subscribe(events, {})
        driver.lifecycle.open()
        try:
            events.expect(DriverEventKind.BACKEND_BACK)
            yield driver, events
        finally:
            driver.lifecycle.close()


@contextmanager
def running_libvirt_host(directory: Path) -> Iterator[LibvirtHost]:
    """The host, running; every guest of it is gone afterwards.

    :raises StepFailed: libvirtd did not start.
    """
    host = LibvirtHost(directory)
    try:
        host.libvirtd.start()
        yield host
    finally:
        host.libvirtd.end()


@contextmanager
def started_libvirt_host(directory: Path) -> Iterator[LibvirtHost]:
    """The same for tests, which do without where the real parts are missing."""
    require_real_parts()
    with running_libvirt_host(directory) as host:
        yield host


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must end within so many seconds (times PATIENCE)."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began <= seconds * PATIENCE
