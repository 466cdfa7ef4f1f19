"""Watchdogs as gateway and agent speak of them: a device, what it does when it fires, and what a server has of them.

Models and expiry actions are words, not an enumeration: a newer agent's platform may know more of them, and only drivers
know what they mean. The words of :class:`ExpiryAction` mean the same on every platform.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints

from compute_agent.contract.wire import WireModel

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
"""A model (``i6300esb``) or an expiry action (``inject-nmi``), in lower case."""


class ExpiryAction(StrEnum):
    """What is done to a server whose watchdog is not fed in time."""

    NONE = "none"
    RESET = "reset"
    POWEROFF = "poweroff"
    POWER_CYCLE = "power_cycle"
    SHUTDOWN = "shutdown"
    PAUSE = "pause"
    DUMP = "dump"
    INJECT_NMI = "inject-nmi"


class WatchdogDevice(WireModel):
    """A watchdog of a server: which one it is, and what it does when it fires."""

    model: Word
    expiry_action: Word


class WatchdogModel(WireModel):
    """A watchdog that a platform knows.

    ``expiry_actions``: what it can be made to do. ``managed`` false: crashcart only recognises it. ``hot_plug``: a running
    server may get or lose it without a restart. ``note`` is a sentence for people: which servers can have it, or why it is not managed.
    """

    model: Word
    expiry_actions: tuple[Word, ...]
    managed: bool
    hot_plug: bool
    note: str


class Watchdog(WireModel):
    """What a server has.

    ``configured`` is what it has when it is started next, ``live`` what the running machine has; None: none, and ``live`` is
    None for a server that is off. ``pending_restart``: it runs, and with another watchdog than the configured one. ``others`` are
    further devices that crashcart does not manage. ``models`` are those that this server can be given.
    """

    configured: WatchdogDevice | None = None
    live: WatchdogDevice | None = None
    pending_restart: bool = False
    others: tuple[WatchdogDevice, ...] = ()
    models: tuple[Word, ...] = ()
