"""The watchdogs that the fake platform knows, and what a server has of them."""

from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice, WatchdogModel

_ALL = tuple(ExpiryAction)

MODELS: tuple[WatchdogModel, ...] = (
    WatchdogModel(model="i6300esb", expiry_actions=_ALL, managed=True, hot_plug=True, note="Any server; a running one needs a free slot."),
    WatchdogModel(model="ib700", expiry_actions=_ALL, managed=True, hot_plug=False, note="Any server, from its next start on."),
    WatchdogModel(
        model="itco", expiry_actions=_ALL, managed=False, hot_plug=False, note="A part of the chipset: it is neither given nor taken."
    ),
)
MANAGED = tuple(entry.model for entry in MODELS if entry.managed)
_HOT_PLUGGED = frozenset(entry.model for entry in MODELS if entry.hot_plug)


def is_plugged(device: WatchdogDevice | None) -> bool:
    """Whether it is a device that a running server may get or lose, and that takes a slot."""
    return device is not None and device.model in _HOT_PLUGGED


def make_watchdog(
    configured: WatchdogDevice | None = None,
    live: WatchdogDevice | None = None,
    *,
    is_off: bool = False,
    persistent: bool = True,
    others: tuple[WatchdogDevice, ...] = (),
    models: tuple[str, ...] = MANAGED,
) -> Watchdog:
    """What a server has: nothing is live of one that is off, nothing is configured of one that has no next start."""
    if is_off:
        live = None
    if not persistent:
        configured = None
    is_pending = persistent and not is_off and live != configured
    return Watchdog(configured=configured, live=live, pending_restart=is_pending, others=others, models=models)
