"""The fake platform's watchdogs: devices that are given and taken in steps, each of which can be made to fail.

A step is a :class:`Call` that a behaviour may stand in for: to take the live device away, to plug one in, to write the configuration.
"""

from collections.abc import Sequence
from datetime import datetime

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.base import ExpiryDumps, Watchdogs
from compute_agent.drivers.errors import BackendUnavailable, NothingSent, OutcomeUnknown, ServerUnsupported
from compute_agent.drivers.fake_backend import FakeBackend
from compute_agent.drivers.fake_devices import MODELS, is_plugged, make_watchdog
from compute_agent.drivers.fake_server import Call
from compute_agent.drivers.models import DriverServer, FoundDump


class FakeWatchdogs(Watchdogs):
    """Converges: each step looks at what is there, so that a call which died at any of them is simply made again."""

    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend

    def list_models(self) -> Sequence[WatchdogModel]:
        return MODELS

    def get_watchdog(self, server: str) -> Watchdog:
        return _get(self._backend.get_server(server))

    def set_watchdog(self, server: str, device: WatchdogDevice) -> Watchdog:
        return self._converge(server, device)

    def remove_watchdog(self, server: str) -> Watchdog:
        return self._converge(server, None)

    def _converge(self, server: str, device: WatchdogDevice | None) -> Watchdog:
        seen = self._backend.get_server(server)
        _check(seen, device)
        before = _get(seen)
        is_plugged = self._is_plugged_now(seen, device)
        if not seen.persistent and not is_plugged and before.live != device:
            raise ServerUnsupported(server, "the server has no next start, and this cannot be changed while it runs")
        try:
            # First the machine, then its configuration: what comes at the next start never is what could not be had now.
            if is_plugged:
                self._plug(server, device)
            if seen.persistent:
                self._configure(server, device)
        except NothingSent as error:
            self._put_back(server, before, error)
            raise
        return self.get_watchdog(server)

    def _put_back(self, server: str, before: Watchdog, error: NothingSent) -> None:
        """:raises BackendUnavailable: it has what it had before.
        :raises OutcomeUnknown: it could not be put back.
        """
        try:
            now = self.get_watchdog(server)
            if (now.configured, now.live) == (before.configured, before.live):
                return
            self._plug(server, before.live)
            self._configure(server, before.configured)
        except NothingSent as second:
            raise OutcomeUnknown(server, f"{error.reason}; then, with the former one to be put back: {second.reason}") from second
        raise BackendUnavailable(server, f"{error.reason}; it has the watchdog that it had", Code.WATCHDOG_NOT_CHANGED) from error

    def _plug(self, server: str, device: WatchdogDevice | None) -> None:
        live = self.get_watchdog(server).live
        if live is not None and live != device:
            self._backend.perform(server, Call.DETACH_WATCHDOG, lambda: self._write(server, live=None))
            if self.get_watchdog(server).live is not None:
                raise BackendUnavailable(server, "the guest did not let go of the device; it has it still", Code.WATCHDOG_NOT_CHANGED)
        if device is not None and live != device:
            self._backend.perform(server, Call.ATTACH_WATCHDOG, lambda: self._write(server, live=device))

    def _configure(self, server: str, device: WatchdogDevice | None) -> None:
        if self.get_watchdog(server).configured != device:
            self._backend.perform(server, Call.CONFIGURE_WATCHDOG, lambda: self._write(server, configured=device))

    def _is_plugged_now(self, seen: DriverServer, device: WatchdogDevice | None) -> bool:
        """Whether the running machine is to be changed, and can be."""
        live = _get(seen).live
        if seen.power_state is PowerState.SHUTDOWN or live == device:
            return False
        if any(each is not None and not is_plugged(each) for each in (live, device)):
            return False
        return live is not None or self._backend.has_free_slot(seen.id)

    def _write(self, server: str, **devices: WatchdogDevice | None) -> None:
        seen = self._backend.get_server(server)
        if seen.power_state is PowerState.CRASHED and "live" in devices and _get(seen).live is not None:
            return  # a guest that has panicked lets go of nothing
        self._backend.change_device(server, **{"configured": _get(seen).configured, "live": _get(seen).live, **devices})


class FakeExpiryDumps(ExpiryDumps):
    """Finds what :meth:`FakeBackend.write_expiry_dump` has noted."""

    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend

    def find_expiry_dump(self, server: str, since: datetime, until: datetime | None = None) -> FoundDump | None:
        return self._backend.find_expiry_dump(server, since, until)


def _get(seen: DriverServer) -> Watchdog:
    return seen.watchdog or make_watchdog()


def _check(seen: DriverServer, device: WatchdogDevice | None) -> None:
    """:raises ServerUnsupported: nothing was touched."""
    watchdog = _get(seen)
    if watchdog.others and not watchdog.models:  # one of the chipset's own is in nobody's way
        raise ServerUnsupported(seen.id, f"the server has a watchdog that is not managed: {watchdog.others[0].model}")
    if device is None:
        return
    model = next((entry for entry in MODELS if entry.model == device.model), None)
    if model is None:
        raise ServerUnsupported(seen.id, f"the platform knows no watchdog {device.model}")
    if not model.managed or device.model not in watchdog.models:
        raise ServerUnsupported(seen.id, f"{device.model} cannot be given to this server. {model.note}")
    if device.expiry_action not in model.expiry_actions:
        raise ServerUnsupported(seen.id, f"{device.model} has no expiry action {device.expiry_action}")
