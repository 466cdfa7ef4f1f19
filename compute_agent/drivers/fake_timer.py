"""A fake watchdog that is fed from outside its server: it counts by the hypervisor's monotonic clock, and never by itself."""

from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import WatchdogTimer
from compute_agent.drivers.errors import ServerNotRunning, ServerUnsupported
from compute_agent.drivers.fake_backend import FakeBackend
from compute_agent.drivers.fake_server import Call


class FakeWatchdogTimer(WatchdogTimer):
    """Arms and feeds; :meth:`FakeBackend.run_timers` lets those fire that nobody fed."""

    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend

    def reset_timer(self, server: str) -> None:
        seen = self._backend.get_server(server)
        if seen.watchdog is None or (seen.watchdog.live or seen.watchdog.configured) is None:
            raise ServerUnsupported(server, "the server has no watchdog that could be fed")
        if seen.power_state is PowerState.SHUTDOWN:
            raise ServerNotRunning(server, "the server is off, and so is its watchdog")
        self._backend.perform(server, Call.RESET_TIMER, lambda: self._backend.arm_timer(server))
