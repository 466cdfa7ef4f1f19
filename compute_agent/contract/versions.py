"""Every version number of the contract, as data with its history. No other file may hold one.

The major number of an RPC version changes only to remove things; a minor one adds a method or an optional argument. An argument is
optional when what is asked for stays the same without it: an agent of an older release is not sent it. What an agent must not overlook is
a method of its own. (Keys inside an action need no row: who does not know them ignores them.)
The event version follows the same rule for notification payloads: keys are added with a minor, never renamed or retyped.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RpcVersion:
    """One RPC version: its number, the methods it brought, why, and the optional arguments of older methods (``METHOD.ARGUMENT``)."""

    number: str
    methods: tuple[str, ...]
    reason: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventVersion:
    """One event version: its number, the types of notification that it brought, and why. New keys alone are a version as well."""

    number: str
    types: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class ReleaseVersions:
    """What one release of crashcart speaks."""

    rpc: str
    event: str


RPC_HISTORY: tuple[RpcVersion, ...] = (
    RpcVersion(
        "1.0",
        ("trigger_crash_dump", "resend_events", "report_inventory", "ping"),
        "the first contract: crash dumps end to end",
    ),
    RpcVersion(
        "1.1",
        ("get_diagnostics", "collect_diagnostics", "take_host_dump", "get_black_box"),
        "diagnostics at once or as an event, memory dumps by the hypervisor, and the black box",
    ),
    RpcVersion(
        "1.2",
        ("set_watchdog", "remove_watchdog", "resume"),
        "watchdogs are set and removed, and a paused server resumes",
    ),
    RpcVersion(
        "1.3",
        ("reset_watchdog_timer",),
        "a watchdog that counts outside its server is fed from outside",
    ),
    RpcVersion(
        "1.4",
        ("cancel_action",),
        "an action that has not begun is called off",
    ),
)

EVENT_HISTORY: tuple[EventVersion, ...] = (
    EventVersion(
        "1.0",
        (
            "action.received",
            "action.started",
            "action.ended",
            "action.revised",
            "action.observed",
            "action.id_conflict",
            "server.started",
            "server.stopped",
            "server.paused",
            "server.resumed",
            "server.suspended",
            "server.rebooted",
            "server.panicked",
            "server.crash_kernel_started",
            "server.claimed_twice",
            "agent.up",
            "agent.down",
            "agent.heartbeat",
            "events.lost",
        ),
        "the first contract: actions, server states, agents, gaps",
    ),
    EventVersion("1.1", (), "a heartbeat's servers tell description, flavor, tags and a foreign owner"),
    EventVersion(
        "1.2",
        ("server.diagnostics", "server.host_dump", "server.host_dump_failed", "server.black_box"),
        "diagnostics, host dumps and black boxes are events",
    ),
    EventVersion(
        "1.3",
        ("server.watchdog.fired", "server.watchdog.outcome", "server.watchdog.changed", "server.watchdog.drifted"),
        "a watchdog's firing, its outcome, change and drift are events, states name the firing; heartbeats tell watchdogs",
    ),
    EventVersion("1.4", (), "diagnostics tell a bare-metal machine's sensors, health, firmware and log; a watchdog may cycle the power"),
    EventVersion(
        "1.5",
        ("agent.cast_refused", "agent.events_missed"),
        "casts that an agent refused for their signature are an event, and so is what it could not keep of what it saw",
    ),
)

VERSION = "1.1.2"
"""This package's version; ``setup.cfg`` takes it from here. Its last number is for corrections, which change nothing of the contract."""

RELEASES: dict[str, ReleaseVersions] = {
    "1.0": ReleaseVersions(rpc="1.3", event="1.5"),
    "1.1": ReleaseVersions(rpc="1.4", event="1.5"),
}
"""Release name -> versions, oldest first; the last row is this release. A release is named by the first two numbers of its version."""

RPC_API_VERSION = RPC_HISTORY[-1].number
NO_RPC_VERSION = "0.0"
"""Who speaks no more than this can be told nothing: no method came with it."""
EVENT_VERSION = EVENT_HISTORY[-1].number
RELEASE = next(reversed(RELEASES))


def get_version_of_method(method: str) -> str:
    """The RPC version that brought ``method``: the lowest one a peer needs for it.

    :raises KeyError: when no version has such a method.
    """
    for version in RPC_HISTORY:
        if method in version.methods:
            return version.number
    raise KeyError(method)


def get_version_of_argument(method: str, argument: str) -> str:
    """The RPC version that brought an argument of ``method``: the one that brought the method, unless a later one names the argument.

    :raises KeyError: when no version has such a method.
    """
    for version in RPC_HISTORY:
        if f"{method}.{argument}" in version.arguments:
            return version.number
    return get_version_of_method(method)


def get_version_of_event_type(event_type: str) -> str:
    """The event version that brought ``event_type``.

    :raises KeyError: when no version has such a type.
    """
    for version in EVENT_HISTORY:
        if event_type in version.types:
            return version.number
    raise KeyError(event_type)
