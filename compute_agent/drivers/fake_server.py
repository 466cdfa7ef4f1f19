"""One server of the fake hypervisor, and the words for how it takes what is done to it."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from compute_agent.drivers.base import DriverServer
from compute_agent.drivers.fake_behaviours import Behaviour

DUMP = b"KDUMP   fake" * 1024
"""What a host dump of any fake server consists of."""


class Call(StrEnum):
    """What a behaviour stands in for."""

    INJECT_NMI = "inject_nmi"
    COLLECT_DIAGNOSTICS = "collect_diagnostics"
    TAKE_HOST_DUMP = "take_host_dump"


class NmiEffect(StrEnum):
    """How a server takes an NMI."""

    PANIC = "panic"
    CRASH_KERNEL = "crash_kernel"
    SURVIVE = "survive"


@dataclass
class FakeServer:
    """One server of the hypervisor, changed under the hypervisor's lock."""

    seen: DriverServer
    effect: NmiEffect
    signals: int = 0
    pending_nmi: bool = False
    running_since: float | None = None
    busy: bool = False
    counters: dict[str, Any] = field(default_factory=dict)
    behaviours: dict[Call, deque[Behaviour]] = field(default_factory=lambda: {call: deque() for call in Call})
