"""Who is told what of a fake backend: its one listener, what it can reach and what not, and the logs that go on meanwhile."""

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound
from compute_agent.drivers.fake_log import FakeRecord
from compute_agent.drivers.fake_server import FakeServer
from compute_agent.drivers.models import DriverEvent, DriverEventKind

_FROM_NOW_ON: Mapping[str, str] = MappingProxyType({})


class FakeReports:
    """Every method may be called from any thread. Events come in the order of the changes, in the thread that made them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._servers: dict[str, FakeServer] = {}
        self._available = True
        self._open = False
        self._listener: Callable[[DriverEvent], None] | None = None

    # What is in reach

    def lose_backend(self) -> None:
        """Until :meth:`restore_backend` every call fails and nothing that happens is reported."""
        with self._lock:
            self._emit(DriverEventKind.BACKEND_LOST, None, "lost")
            self._available = False

    def restore_backend(self) -> None:
        with self._lock:
            self._available = True
            self._tell_logs()
            self._emit(DriverEventKind.BACKEND_BACK, None, "back")

    def lose_server(self, server: str, reason: str = "no answer") -> None:
        """Until :meth:`restore_server` every call for this one fails, and nothing that happens to it is reported."""
        with self._lock:
            fake = self._get(server)
            if not fake.lost:
                fake.last_read, fake.lost = fake.seen if self._open else None, reason
                self._emit(DriverEventKind.BACKEND_LOST, server, reason, always=True)

    def restore_server(self, server: str) -> None:
        """What its platform noted meanwhile is told before it is called back."""
        with self._lock:
            self._get(server).lost = ""
            self._tell_log(server)
            self._emit(DriverEventKind.BACKEND_BACK, server, "back")

    # Who listens

    def subscribe(self, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str] = _FROM_NOW_ON) -> None:
        with self._lock:
            self._listener = listener
            for server, fake in self._servers.items():
                fake.last_read = None  # another driver has read nothing yet
                if fake.log is not None:
                    fake.log.begin(cursors.get(server))

    def open(self) -> None:
        with self._lock:
            self._open = True
            self._tell_logs()
            self._emit(DriverEventKind.BACKEND_BACK, None, "connected")
            for server, fake in self._servers.items():
                if fake.lost:
                    self._emit(DriverEventKind.BACKEND_LOST, server, fake.lost, always=True)

    def close(self) -> None:
        with self._lock:
            self._open = False

    # What is told

    def write_log(self, server: str, kind: DriverEventKind, reason: str, power_state: PowerState | None = None) -> None:
        """Something that a bare-metal server's platform notes: told now, or to whoever reads on from there later."""
        with self._lock:
            log = self._get(server).log
            assert log is not None, "only bare metal has a log"
            log.write(FakeRecord(kind, self._clock.now(), reason, power_state))
            self._tell_log(server)

    def _note(self, server: str, kind: DriverEventKind, reason: str) -> None:
        """Told at once, and by the log where there is one."""
        if self._get(server).log is None:
            self._emit(kind, server, reason)
        else:
            self.write_log(server, kind, reason)

    def _tell_logs(self) -> None:
        for server in self._servers:
            self._tell_log(server)

    def _tell_log(self, server: str) -> None:
        """Whatever nobody was told of yet, if the server can be read and somebody listens."""
        fake = self._get(server)
        if fake.log is not None and not fake.lost and self._open and self._available and self._listener is not None:
            for event in fake.log.take_news(server, self._clock.now()):
                self._listener(event)

    def _emit(self, kind: DriverEventKind, server: str | None, reason: str, *, always: bool = False) -> None:
        """:param always: of a server that nobody can read, too"""
        with self._lock:
            fake = None if server is None else self._servers.get(server)
            is_lost = fake is not None and bool(fake.lost) and not always
            if self._open and self._available and self._listener is not None and not is_lost:
                self._listener(DriverEvent(kind, server, self._clock.now(), reason))

    # What the backend needs

    def _get(self, server: str) -> FakeServer:
        fake = self._servers.get(server)
        if fake is None:
            raise ServerNotFound(server, f"no server {server} on this host")
        return fake

    def _get_readable(self, server: str) -> FakeServer:
        """:raises BackendUnavailable: nobody can read it.
        :raises ServerNotFound: there is none.
        """
        self._check_available()
        fake = self._get(server)
        if fake.lost:
            raise BackendUnavailable(server, fake.lost)
        return fake

    def _check_available(self) -> None:
        if not self._available:
            raise BackendUnavailable(None, "the fake backend is away")
