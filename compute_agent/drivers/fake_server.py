"""One server of the fake hypervisor, and the words for how it takes what is done to it."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from compute_agent.contract.diagnostics import Hardware, Health, Sensor, SensorKind
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.fake_behaviours import Behaviour
from compute_agent.drivers.fake_log import FakeLog
from compute_agent.drivers.models import DriverServer, FoundDump, InspectedServer, VcpuState

DUMP = b"KDUMP   fake" * 1024
"""What a host dump of any fake server consists of."""


class Call(StrEnum):
    """What a behaviour stands in for."""

    INJECT_NMI = "inject_nmi"
    COLLECT_DIAGNOSTICS = "collect_diagnostics"
    TAKE_HOST_DUMP = "take_host_dump"
    DETACH_WATCHDOG = "detach_watchdog"
    ATTACH_WATCHDOG = "attach_watchdog"
    CONFIGURE_WATCHDOG = "configure_watchdog"
    RESUME = "resume"
    RESET_TIMER = "reset_timer"


class NmiEffect(StrEnum):
    """How a server takes an NMI."""

    PANIC = "panic"
    CRASH_KERNEL = "crash_kernel"
    SURVIVE = "survive"


@dataclass
class FakeServer:
    """One server of the hypervisor, changed under the hypervisor's lock.

    ``seen`` is as it is. ``lost`` is empty, or says why nobody can read it; ``last_read`` is how it was when somebody could, None: never.
    ``log``: it is bare metal, and its platform keeps one. ``expires_at``: when its watchdog fires unless it is fed, by the monotonic clock.
    """

    seen: DriverServer
    effect: NmiEffect
    log: FakeLog | None = None
    lost: str = ""
    last_read: DriverServer | None = None
    expires_at: float | None = None
    signals: int = 0
    pending_nmi: bool = False
    running_since: float | None = None
    busy: bool = False
    console: bytes | None = None
    free_slots: int = 1
    expiry_dumps: list[tuple[datetime, FoundDump]] = field(default_factory=list)
    counters: dict[str, Any] = field(default_factory=dict)
    behaviours: dict[Call, deque[Behaviour]] = field(default_factory=lambda: {call: deque() for call in Call})


def describe_fake(fake: FakeServer) -> DriverServer:
    """As the driver sees it."""
    if not fake.lost:
        return fake.seen
    never_read = replace(fake.seen, power_state=PowerState.PENDING, state_reason="", started_at=None, watchdog=None)
    return replace(fake.last_read or never_read, unread=fake.lost)


def describe_hardware(fake: FakeServer) -> Hardware | None:
    """What bare metal tells of itself; None of a VM."""
    if fake.log is None:
        return None
    is_on = fake.seen.power_state is not PowerState.SHUTDOWN
    temperature = Sensor(name="Inlet Temp", kind=SensorKind.TEMPERATURE, value=23.5, unit="°C", health=Health.OK)
    fan = Sensor(name="Fan 1", kind=SensorKind.FAN, value=5400.0 if is_on else None, unit="RPM", health=Health.OK if is_on else None)
    return Hardware(
        power="on" if is_on else "off",
        power_watts=120.0 if is_on else 4.0,
        health=Health.OK,
        sensors=(temperature, fan),
        firmware={"controller": "release 7"},
        log=fake.log.list_entries(),
    )


def inspect_fake(fake: FakeServer) -> InspectedServer:
    """What a black box keeps of it."""
    seen = fake.seen
    word = "running" if seen.power_state is PowerState.RUNNING else "offline"
    return InspectedServer(
        power_state=seen.power_state,
        state_reason=seen.state_reason,
        vcpus=tuple(VcpuState(number, word) for number in range(seen.vcpus or 0)),
        configuration=f"<server id='{seen.id}'/>",
    )


def write_dump(server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
    """A small file in place of its memory.

    :raises BackendUnavailable: it cannot be written.
    """
    on_progress(0, len(DUMP))
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as dump:
            dump.write(DUMP)
    except OSError as error:
        raise BackendUnavailable(server, f"cannot write {path}: {error.strerror}", Code.HOST_DUMP_FAILED) from error
    on_progress(len(DUMP), len(DUMP))
