"""The conformance suite: what every driver must do, whatever it drives.

To run it over a driver, write a :class:`Laboratory` for its backend, give it as the module's fixture ``laboratory``, and subclass
:class:`DriverConformance`::

    @pytest.fixture(scope="module")
    def laboratory() -> Iterator[MyLaboratory]:
        with started_backend() as backend:
            yield MyLaboratory(backend)

    class TestMyDriver(DriverConformance):
        pass

Scope "module" is right when machines are expensive to make (real guests): every test makes the machines it needs through the laboratory,
and a laboratory may give the same machine out again, put back into the wanted state, as long as its signals go on being counted
from where they were (tests compare counts before and after). A laboratory that cannot do something (freeze its backend, say) calls
``pytest.skip`` there with the reason; anything else is a failure. Real backends answer after a while, so every expectation about an
event or a count waits for it, up to ``laboratory.patience`` seconds; nothing here sleeps.

What a platform is by its nature is declared, once, by the laboratory's attributes: ``has_one_backend`` False where each server is reached
through a backend of its own, and a :class:`PowerOnlyLaboratory` where the platform knows of a server only whether it is on. Nothing is
skipped for the others.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound, ServerNotRunning
from compute_agent.drivers.models import DriverEvent, DriverEventKind, DriverServer
from devstack.services import PATIENCE


class EventLog:
    """The one listener of a driver: keeps what was reported, in order; a test waits for what must come."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._events: list[DriverEvent] = []

    def __call__(self, event: DriverEvent) -> None:
        with self._arrived:
            self._events.append(event)
            self._arrived.notify_all()

    @property
    def position(self) -> int:
        """How many came so far: a mark from which to wait."""
        with self._arrived:
            return len(self._events)

    def wait_for(self, kind: DriverEventKind, server: str | None, *, since: int, timeout: float) -> DriverEvent:
        """The first such event after position ``since``; fails the test when none came within ``timeout`` seconds."""
        return self.wait_for_any({kind}, server, since, timeout=timeout)

    def wait_for_any(self, kinds: Collection[DriverEventKind], server: str | None, since: int, *, timeout: float) -> DriverEvent:
        """The first event of one of these kinds."""

        def find() -> DriverEvent | None:
            return next((event for event in self._events[since:] if event.kind in kinds and event.server == server), None)

        with self._arrived:
            found = self._arrived.wait_for(find, timeout * PATIENCE)
            if found is None:
                pytest.fail(f"no event {' or '.join(kinds)} of {server} within {timeout} s, only {self._events[since:]}")
            return found

    def wait_for_cursor(self, server: str, *, timeout: float) -> str:
        """The last cursor that was told of this server, as an agent would have kept it."""

        def find() -> str | None:
            return next((event.cursor for event in reversed(self._events) if event.server == server and event.cursor), None)

        with self._arrived:
            found = self._arrived.wait_for(find, timeout * PATIENCE)
            if found is None:
                pytest.fail(f"no cursor of {server} within {timeout} s, only {self._events}")
            return found

    def list(self, kind: DriverEventKind, server: str | None, *, since: int = 0) -> list[DriverEvent]:
        """Those that came after position ``since`` so far."""
        with self._arrived:
            return [event for event in self._events[since:] if (event.kind, event.server) == (kind, server)]

    def find_position(self, event: DriverEvent) -> int:
        with self._arrived:
            return self._events.index(event)


class Laboratory(ABC):
    """A backend with machines on it, and the driver under test over it, opened, with ``events`` subscribed before.

    The ``make_`` methods return the id of a server that is in that state now, and that the driver can see.
    """

    driver: Driver
    events: EventLog
    patience: float = 5.0
    """Seconds that an event or a count may take to arrive."""
    knows_guest_states = True
    """Whether the platform sees that a server is paused or has crashed. False: see :class:`PowerOnlyLaboratory`."""
    has_one_backend = True
    """Whether all servers are reached through the same backend. False: each has its own, and the list of servers needs none of them."""
    knows_sizes = True
    """Whether the list of servers says how many processors and how much memory each has."""
    samples_devices = True
    """Whether a sample of all servers has their devices: what counts nothing can do without."""
    unknown_server = "00000000-0000-4000-8000-000000000000"

    @abstractmethod
    def make_surviving(self) -> str:
        """A running server that lives on after an NMI, so that its signals can be counted."""

    @abstractmethod
    def make_panicking(self) -> str:
        """A running server that panics at an NMI and tells its host so."""

    @abstractmethod
    def make_paused(self) -> str:
        """A paused server that survives NMIs."""

    @abstractmethod
    def make_stopped(self) -> str:
        """A defined server that is off."""

    @abstractmethod
    def make_crashed(self) -> str:
        """A server that has panicked and stays there."""

    @abstractmethod
    def count_signals(self, server: str) -> int:
        """How many NMIs the machine itself has counted; of a paused one, those that it had before and after the pause."""

    @abstractmethod
    def wait_for_signals(self, server: str, count: int) -> None:
        """Wait until :meth:`count_signals` is at least ``count``; fail the test after ``patience`` seconds."""

    @abstractmethod
    def start(self, server: str) -> None: ...

    @abstractmethod
    def stop(self, server: str) -> None: ...

    @abstractmethod
    def pause(self, server: str) -> None: ...

    @abstractmethod
    def resume(self, server: str) -> None: ...

    @abstractmethod
    def reboot(self, server: str) -> None: ...

    @abstractmethod
    def remove(self, server: str) -> None:
        """Make the host forget a server that is off."""

    @abstractmethod
    def lose_backend(self, server: str) -> None:
        """Take away what ``server`` is reached through; return when the driver has reported that or is about to."""

    @abstractmethod
    def restore_backend(self, server: str) -> None:
        """Bring it back; return when it answers again (the driver may need a while longer)."""

    @contextmanager
    def without_backend(self, server: str) -> Iterator[None]:
        """While it is away, from when the driver has said so; afterwards it is back, and the driver has said that, too."""
        whose, since = None if self.has_one_backend else server, self.events.position
        self.lose_backend(server)
        try:
            self.events.wait_for(DriverEventKind.BACKEND_LOST, whose, since=since, timeout=self.patience)
            since = self.events.position
            yield
        finally:
            self.restore_backend(server)
        self.events.wait_for(DriverEventKind.BACKEND_BACK, whose, since=since, timeout=self.patience)


class PowerOnlyLaboratory(Laboratory):
    """Of a platform that knows of a server only whether it is on: none can be paused, and one that has panicked is on still.

    Each server has a backend of its own here.
    """

    knows_guest_states = False
    has_one_backend = False
    knows_sizes = False
    samples_devices = False

    def make_paused(self) -> str:
        pytest.skip("the platform pauses no server")

    def make_crashed(self) -> str:
        pytest.skip("the platform does not see that a server has crashed: it is on")

    def pause(self, server: str) -> None:
        pytest.skip("the platform pauses no server")

    def resume(self, server: str) -> None:
        pytest.skip("the platform pauses no server")


class DriverConformance:
    """Subclass it as the module's docstring says."""

    # Servers

    def test_capabilities_are_those_that_the_driver_holds(self, laboratory: Laboratory) -> None:
        driver = laboratory.driver
        capabilities = driver.capabilities()
        assert capabilities.driver == driver.name
        assert capabilities.inject_nmi == (driver.nmi is not None)
        assert capabilities.events == (driver.events is not None)
        assert capabilities.diagnostics == (driver.diagnostics is not None)
        assert capabilities.host_dump == (driver.host_dump is not None)
        assert capabilities.watchdog_timer == (driver.watchdog_timer is not None)
        assert driver.call_bound > 0

    def test_every_server_is_listed_running_or_not(self, laboratory: Laboratory) -> None:
        made = {laboratory.make_surviving(), laboratory.make_stopped()}
        listed = laboratory.driver.servers.list_servers()
        ids = [server.id for server in listed]
        assert made <= set(ids)
        assert len(ids) == len(set(ids))
        assert all(server.instance_name for server in listed)
        assert not any(server.unread for server in listed if server.id in made)

    @pytest.mark.parametrize(
        ("make", "power_state"),
        [
            ("make_surviving", PowerState.RUNNING),
            ("make_paused", PowerState.PAUSED),
            ("make_stopped", PowerState.SHUTDOWN),
            ("make_crashed", PowerState.CRASHED),
        ],
    )
    def test_a_server_is_in_the_state_that_it_is_in(self, laboratory: Laboratory, make: str, power_state: PowerState) -> None:
        server = getattr(laboratory, make)()
        assert laboratory.driver.servers.get_server(server).power_state is power_state
        assert self._find_listed(laboratory, server).power_state is power_state

    def test_a_running_server_says_since_when_and_a_stopped_one_nothing(self, laboratory: Laboratory) -> None:
        running = laboratory.driver.servers.get_server(laboratory.make_surviving())
        assert running.started_at is None or running.started_at.utcoffset() == timedelta(0)
        assert laboratory.driver.servers.get_server(laboratory.make_stopped()).started_at is None

    def test_a_listed_server_says_the_same_of_itself_as_one_that_is_asked_for(self, laboratory: Laboratory) -> None:
        """Otherwise every heartbeat would report a change of name, owner, flavor or tags that is none."""
        server = laboratory.make_stopped()
        assert self._find_listed(laboratory, server) == laboratory.driver.servers.get_server(server)

    def test_an_unknown_server_is_not_found(self, laboratory: Laboratory) -> None:
        with pytest.raises(ServerNotFound):
            laboratory.driver.servers.get_server(laboratory.unknown_server)

    def test_a_removed_server_is_not_found_and_not_listed(self, laboratory: Laboratory) -> None:
        server, since = laboratory.make_stopped(), laboratory.events.position
        laboratory.remove(server)
        self._expect_event(laboratory, DriverEventKind.UNDEFINED, server, since)
        with pytest.raises(ServerNotFound):
            laboratory.driver.servers.get_server(server)
        assert server not in {listed.id for listed in laboratory.driver.servers.list_servers()}

    # NMI

    def test_one_injection_is_exactly_one_signal(self, laboratory: Laboratory) -> None:
        """Two injections first show that the count can tell one from two."""
        server = laboratory.make_surviving()
        before = laboratory.count_signals(server)
        self._inject(laboratory, server)
        laboratory.wait_for_signals(server, before + 1)
        self._inject(laboratory, server)
        laboratory.wait_for_signals(server, before + 2)
        assert laboratory.count_signals(server) == before + 2

    def test_a_server_that_survives_goes_on_running(self, laboratory: Laboratory) -> None:
        server = laboratory.make_surviving()
        before = laboratory.count_signals(server)
        self._inject(laboratory, server)
        laboratory.wait_for_signals(server, before + 1)
        assert laboratory.driver.servers.get_server(server).power_state is PowerState.RUNNING

    def test_a_panic_is_reported_with_the_state_that_the_server_is_in_then(self, laboratory: Laboratory) -> None:
        """Crashed, where the platform sees that; otherwise the event itself says that the server is on still."""
        server, since = laboratory.make_panicking(), laboratory.events.position
        asked_at = datetime.now(UTC)
        self._inject(laboratory, server)
        event = self._expect_event(laboratory, DriverEventKind.PANICKED, server, since)
        assert event.occurred_at.utcoffset() == timedelta(0)
        assert event.occurred_at >= asked_at - timedelta(seconds=1)
        after = PowerState.CRASHED if laboratory.knows_guest_states else PowerState.RUNNING
        assert event.power_state is (None if laboratory.knows_guest_states else after)
        assert laboratory.driver.servers.get_server(server).power_state is after

    def test_a_paused_server_is_signalled_and_takes_it_when_it_resumes(self, laboratory: Laboratory) -> None:
        server = laboratory.make_paused()
        before = laboratory.count_signals(server)
        self._inject(laboratory, server)
        assert laboratory.driver.servers.get_server(server).power_state is PowerState.PAUSED
        laboratory.resume(server)
        laboratory.wait_for_signals(server, before + 1)
        assert laboratory.count_signals(server) == before + 1

    @pytest.mark.parametrize("make", ["make_stopped", "make_crashed"])
    def test_a_server_that_is_not_running_is_refused(self, laboratory: Laboratory, make: str) -> None:
        server = getattr(laboratory, make)()
        with pytest.raises(ServerNotRunning) as refusal:
            self._inject(laboratory, server)
        assert refusal.value.reason

    def test_signalling_an_unknown_server_is_refused(self, laboratory: Laboratory) -> None:
        with pytest.raises(ServerNotFound):
            self._inject(laboratory, laboratory.unknown_server)

    def test_many_threads_may_read_and_signal_at_once(self, laboratory: Laboratory) -> None:
        servers = [laboratory.make_surviving(), laboratory.make_surviving()]
        before = {server: laboratory.count_signals(server) for server in servers}
        calls: list[Callable[[], object]] = [laboratory.driver.servers.list_servers] * 8
        calls += [lambda server=server: self._inject(laboratory, server) for server in dict.fromkeys(servers)]
        with ThreadPoolExecutor(len(calls)) as pool:
            for future in [pool.submit(call) for call in calls]:
                future.result(timeout=60)
        for server, count in before.items():
            laboratory.wait_for_signals(server, count + 1)
            assert laboratory.count_signals(server) == count + 1

    # Events

    @pytest.mark.parametrize(
        ("make", "change", "kind"),
        [
            ("make_stopped", "start", DriverEventKind.STARTED),
            ("make_surviving", "stop", DriverEventKind.STOPPED),
            ("make_surviving", "pause", DriverEventKind.PAUSED),
            ("make_paused", "resume", DriverEventKind.RESUMED),
            ("make_surviving", "reboot", DriverEventKind.REBOOTED),
        ],
    )
    def test_what_happens_to_a_server_is_reported(self, laboratory: Laboratory, make: str, change: str, kind: DriverEventKind) -> None:
        server, since = getattr(laboratory, make)(), laboratory.events.position
        getattr(laboratory, change)(server)
        self._expect_event(laboratory, kind, server, since)

    # The backend goes and comes

    def test_without_its_backend_the_driver_says_so_and_sends_nothing(self, laboratory: Laboratory) -> None:
        """Then it finds back by itself: reported, readable, and with its subscriptions in force."""
        server = laboratory.make_surviving()
        before, diagnostics = laboratory.count_signals(server), laboratory.driver.diagnostics
        with laboratory.without_backend(server):
            with pytest.raises(BackendUnavailable):
                laboratory.driver.servers.get_server(server)
            with pytest.raises(BackendUnavailable):
                self._inject(laboratory, server)
            if diagnostics is not None:
                with pytest.raises(BackendUnavailable):
                    diagnostics.collect_diagnostics(server)
            if laboratory.has_one_backend:
                with pytest.raises(BackendUnavailable):
                    laboratory.driver.servers.list_servers()
                if diagnostics is not None:
                    with pytest.raises(BackendUnavailable):
                        diagnostics.sample_servers()
        assert self._find_listed(laboratory, server).power_state is PowerState.RUNNING
        assert laboratory.count_signals(server) == before
        since = laboratory.events.position
        if laboratory.knows_guest_states:
            laboratory.pause(server)
            self._expect_event(laboratory, DriverEventKind.PAUSED, server, since)
        else:
            laboratory.stop(server)
            self._expect_event(laboratory, DriverEventKind.STOPPED, server, since)

    def test_a_server_that_cannot_be_read_is_listed_with_the_reason_and_the_others_are_not_disturbed(self, laboratory: Laboratory) -> None:
        """Its state is that of the last reading. Of nothing else can one say that it is gone."""
        if laboratory.has_one_backend:
            pytest.skip("all servers are reached through one backend: without it none is listed")
        server, other = laboratory.make_surviving(), laboratory.make_stopped()
        with laboratory.without_backend(server):
            listed = self._find_listed(laboratory, server)
            assert listed.unread
            assert listed.power_state is PowerState.RUNNING
            assert not self._find_listed(laboratory, other).unread
            assert laboratory.driver.servers.get_server(other).power_state is PowerState.SHUTDOWN
            if laboratory.driver.diagnostics is not None:
                assert server not in {reading.server for reading in laboratory.driver.diagnostics.sample_servers()}
        assert not self._find_listed(laboratory, server).unread

    def _inject(self, laboratory: Laboratory, server: str) -> None:
        assert laboratory.driver.nmi is not None
        laboratory.driver.nmi.inject_nmi(server)

    def _find_listed(self, laboratory: Laboratory, server: str) -> DriverServer:
        return next(listed for listed in laboratory.driver.servers.list_servers() if listed.id == server)

    def _expect_event(self, laboratory: Laboratory, kind: DriverEventKind, server: str | None, since: int) -> DriverEvent:
        if laboratory.driver.events is None:
            pytest.skip(f"the driver {laboratory.driver.name} reports no events")
        return laboratory.events.wait_for(kind, server, since=since, timeout=laboratory.patience)
