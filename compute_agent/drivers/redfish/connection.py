"""The way to one BMC: visits, each with an end in time."""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sushy.connector import Connector

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.protocol import Target
from compute_agent.drivers.redfish.documents import Document
from compute_agent.drivers.redfish.errors import NOT_THERE, UNAUTHORIZED, Refused, Unreachable, Unusable
from compute_agent.drivers.redfish.exchange import Answer, make_connector, read_answer
from compute_agent.drivers.redfish.line import Alarm, Line, LineAdapter
from compute_agent.drivers.redfish.login import Credentials, Login
from compute_agent.drivers.redfish.tls import TrustStores

_MOST_REDIRECTS = 3


class Visit:
    """Some exchanges with one BMC, made by one thread, all of them over in time. Not to be kept."""

    def __init__(self, connector: Connector, line: Line, login: Login, server: str) -> None:
        self.server = server
        self._connector = connector
        self._line = line
        self._login = login

    @property
    def remaining(self) -> float:
        """Seconds until everything is over."""
        return self._line.remaining

    def get(self, path: str) -> Document:
        """The JSON object at a path.

        :raises ExchangeError: there is none to be had.
        """
        answer = self.ask("GET", path)
        if not isinstance(answer.body, Mapping):
            raise Unusable(f"what the BMC has at {path} is no JSON object")
        return answer.body

    def find(self, path: str | None) -> Document | None:
        """The same; None: there is no such resource."""
        if path is None:
            return None
        try:
            return self.get(path)
        except Refused as refusal:
            if refusal.status in NOT_THERE:
                return None
            raise

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, etag: str | None = None) -> Answer:
        """One exchange; repeated only when it was a GET or PATCH and the BMC had forgotten our login: then nothing was done."""
        token = self._login.enter(self)
        try:
            return self.ask_openly(method, path, body, etag)
        except Refused as refusal:
            if refusal.status != UNAUTHORIZED or method == "POST" or not self._login.renew(self, token):
                raise
        return self.ask_openly(method, path, body, etag)

    def ask_openly(self, method: str, path: str, body: Mapping[str, Any] | None = None, etag: str | None = None) -> Answer:
        """One exchange with whatever login is there."""
        for _ in range(_MOST_REDIRECTS):
            headers = {"If-Match": etag} if etag else None
            send = getattr(self._connector, method.lower())
            answer = read_answer(send(path, data=body, headers=headers))
            if answer.status < 300:
                return answer
            if method != "GET" or answer.location is None:
                break
            path = answer.location
        raise Refused(answer.status, "it sends us elsewhere")

    def pause(self, seconds: float) -> None:
        """Wait; ends early when the connection is let go of."""
        self._line.pause(seconds)

    def use_token(self, token: str) -> None:
        self._connector.set_http_session_auth(token)

    def use_password(self, username: bytes, password: bytes) -> None:
        self.use_nothing()
        self._connector.set_http_basic_auth(username, password)

    def use_nothing(self) -> None:
        """A token that is not known any more would have some BMCs refuse even what they tell to anybody."""
        self._connector._session.auth = None
        self._connector._session.headers.pop("X-Auth-Token", None)


class Connection:
    """One BMC: a login that all visits share, and a connection for each visit, so that no thread waits for another's answer."""

    def __init__(self, target: Target, clock: Clock, alarm: Alarm, stores: TrustStores) -> None:
        """:raises ValueError: the CA file cannot be used, or the password cannot be sent."""
        self._target = target
        self._clock = clock
        self._alarm = alarm
        self._stores = stores
        self._stores.get_context(target.verify_tls, target.ca_file)
        self._credentials = Credentials(target.username, target.password)
        self._login = Login(self._credentials)
        self._lock = threading.Lock()
        self._lines: set[Line] = set()
        self._is_closed = False

    @property
    def has_session(self) -> bool:
        """Whether the BMC keeps a session for us."""
        return self._login.has_session

    @contextmanager
    def visit(self, limit: float) -> Iterator[Visit]:
        """Exchanges for at most ``limit`` seconds in all.

        :raises Unreachable: the connection was closed
        """
        with self._visit(limit) as visit:
            yield visit

    def close(self) -> None:
        """Whoever waits for an answer ends at once; nobody begins another exchange."""
        with self._lock:
            self._is_closed = True
            lines = list(self._lines)
        for line in lines:
            line.cut("it is no longer served")

    def log_out(self, limit: float) -> None:
        """Give the BMC its session back, if there is one; after :meth:`close`.

        :raises ExchangeError: it did not take it, and ends it by itself some time.
        """
        if self._login.has_session:
            with self._visit(limit, after_close=True) as visit:
                self._login.leave(visit)

    @contextmanager
    def _visit(self, limit: float, *, after_close: bool = False) -> Iterator[Visit]:
        tls = self._find_trust()
        line = Line(self._clock, self._clock.monotonic() + limit)
        with self._lock:
            if self._is_closed and not after_close:
                raise Unreachable("the BMC is no longer served")
            self._lines.add(line)
        adapter = LineAdapter(line, self._target.address, self._target.port, tls)
        connector = make_connector(self._target, line, adapter, self._credentials)
        try:
            with self._alarm.watching(line):
                yield Visit(connector, line, self._login, self._target.server)
        finally:
            connector.close()
            line.hang_up()
            with self._lock:
                self._lines.discard(line)

    def _find_trust(self) -> ssl.SSLContext:
        """Of now: a CA file that was renewed holds from the next visit on.

        :raises Unreachable: it cannot be used any more.
        """
        try:
            return self._stores.get_context(self._target.verify_tls, self._target.ca_file)
        except ValueError as error:
            raise Unreachable(str(error)) from error
