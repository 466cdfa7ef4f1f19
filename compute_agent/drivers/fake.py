"""A complete in-memory driver: for load tests of a whole fleet, for development without a hypervisor, and for the unit tests.

:class:`FakeHypervisor` is the backend (``fake_backend``) with the driver over it, which passes the same conformance suite as every other
one; the ways to make it fail are in ``fake_behaviours``.
"""

from collections.abc import Callable, Mapping, Sequence

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import DiagnosticsSource, Driver, Events, HostDump, Inspection, Lifecycle, Nmi, Resume, Servers
from compute_agent.drivers.fake_backend import FakeBackend
from compute_agent.drivers.fake_server import NmiEffect
from compute_agent.drivers.fake_timer import FakeWatchdogTimer
from compute_agent.drivers.fake_watchdog import FakeExpiryDumps, FakeWatchdogs
from compute_agent.drivers.models import CollectedDiagnostics, DriverEvent, DriverServer, InspectedServer

GROUP = "fake"
OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt("servers", default=2, min=0, help="How many running servers the fake hypervisor has from the start."),
    cfg.IntOpt("surviving", default=0, min=0, help="How many of them survive an NMI without a sign; the others panic."),
    cfg.StrOpt("seed", default="fake", help="Server ids are made from it: the same seed gives the same ids. Give each agent its own."),
    cfg.FloatOpt("call_bound", default=5.0, min=0.0, help="Seconds after which the outcome of a begun call is unknown."),
]


class FakeHypervisor(FakeBackend):
    """The backend with its driver. Every method may be called from any thread; ids are those that the methods returned."""

    def __init__(self, clock: Clock, *, seed: str = "fake", call_bound: float = 5.0) -> None:
        super().__init__(clock, seed=seed)
        self.driver = Driver(
            name="fake",
            servers=_FakeServers(self),
            call_bound=call_bound,
            nmi=_FakeNmi(self),
            diagnostics=_FakeDiagnostics(self),
            host_dump=_FakeHostDump(self),
            inspection=_FakeInspection(self),
            watchdog=FakeWatchdogs(self),
            watchdog_timer=FakeWatchdogTimer(self),
            expiry_dumps=FakeExpiryDumps(self),
            resume=_FakeResume(self),
            events=_FakeEvents(self),
            lifecycle=_FakeLifecycle(self),
        )


class _FakeServers(Servers):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def list_servers(self) -> Sequence[DriverServer]:
        return self._hypervisor.list_servers()

    def get_server(self, server: str) -> DriverServer:
        return self._hypervisor.get_server(server)


class _FakeNmi(Nmi):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def inject_nmi(self, server: str) -> None:
        self._hypervisor.inject_nmi(server)


class _FakeDiagnostics(DiagnosticsSource):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        return self._hypervisor.collect_diagnostics(server)

    def sample_servers(self) -> Sequence[CollectedDiagnostics]:
        return self._hypervisor.sample_servers()


class _FakeHostDump(HostDump):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def take_host_dump(self, server: str, path: str, on_progress: Callable[[int, int], None]) -> None:
        self._hypervisor.take_host_dump(server, path, on_progress)


class _FakeInspection(Inspection):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def inspect_server(self, server: str) -> InspectedServer:
        return self._hypervisor.inspect_server(server)

    def read_console_tail(self, server: str, limit: int) -> bytes | None:
        return self._hypervisor.read_console_tail(server, limit)


class _FakeResume(Resume):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def resume_server(self, server: str) -> None:
        self._hypervisor.resume_server(server)


class _FakeEvents(Events):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def subscribe(self, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        self._hypervisor.subscribe(listener, cursors)


class _FakeLifecycle(Lifecycle):
    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def open(self) -> None:
        self._hypervisor.open()

    def close(self) -> None:
        self._hypervisor.close()


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register the group on ``conf``; may be called more than once."""
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For the generated configuration reference."""
    return [(GROUP, OPTIONS)]


def create_driver(conf: cfg.ConfigOpts, clock: Clock) -> Driver:
    """The driver over a hypervisor with as many servers as ``conf`` wants; the last ``surviving`` of them take every NMI."""
    register_options(conf)
    group = conf[GROUP]
    hypervisor = FakeHypervisor(clock, seed=group.seed, call_bound=group.call_bound)
    for number in range(group.servers):
        survives = number >= group.servers - group.surviving
        hypervisor.make_server(effect=NmiEffect.SURVIVE if survives else NmiEffect.PANIC)
    return hypervisor.driver
