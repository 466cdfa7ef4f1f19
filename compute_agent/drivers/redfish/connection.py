"""The way to one BMC: visits, each with an end in time, through sushy's connector.

Of sushy the connector is used, which speaks HTTP as Redfish wants it, and not its resource classes: these take a whole document for
unreadable for one odd value, ask again on their own, and know no limit in time. What the connector does beyond one exchange is taken out
of its hands: it would send a request up to three times when an answer is lost, wait seconds in between, follow a redirect with the
password in hand, and log in anew on its own.
"""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from sushy.connector import Connector

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.protocol import Target
from compute_agent.drivers.redfish.documents import Document, as_path
from compute_agent.drivers.redfish.errors import NOT_THERE, UNAUTHORIZED, NoAnswer, Refused, Unreachable, Unusable, read_refusal
from compute_agent.drivers.redfish.line import Alarm, Line, LineAdapter
from compute_agent.drivers.redfish.login import Credentials, Login
from compute_agent.drivers.redfish.tls import TrustStores

_MOST_BYTES = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_MOST_REDIRECTS = 3
_WITHOUT_BODY = (204, 304)
_UNKNOWN_SIGNERS = (2, 18, 19, 20, 21)
_OTHER_NAMES = (62, 64)
"""OpenSSL's numbers of what is wrong with a certificate: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT and its like; another name, another IP."""


@dataclass(frozen=True)
class Answer:
    """A BMC's yes: its HTTP status, its JSON (None: none that can be read), and the headers that matter."""

    status: int
    body: Any
    location: str | None = None
    etag: str | None = None
    token: str | None = None
    retry_after: str | None = None

    @property
    def document(self) -> Document:
        return self.body if isinstance(self.body, Mapping) else {}


class _BoundedSession(requests.Session):
    """One request, one answer that fits into memory, or an :class:`ExchangeError`; those, sushy's connector lets through."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.trust_env = False
        self._line = line

    def request(self, method: str, url: str | bytes, **options: Any) -> requests.Response:  # type: ignore[override]
        line = self._line
        line.is_sending = False
        if line.is_over:
            raise Unreachable("there was no time left to ask the BMC")
        bounds = {"timeout": (line.remaining, line.remaining), "allow_redirects": False, "stream": True}
        try:
            response = super().request(method, url, **options | bounds)
            response._content = _read_body(response)  # what Session.request does without `stream`, and without a bound
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._explain(error) from error
        return response

    def _explain(self, error: Exception) -> Unreachable | NoAnswer:
        line = self._line
        what = line.cut_because or ("its time was over" if line.is_over else _name_cause(error))
        if line.is_sending:
            return NoAnswer(f"no answer that can be read came from the BMC: {what}")
        return Unreachable(f"the BMC cannot be reached: {what}")


def _read_body(response: requests.Response) -> bytes:
    """:raises ValueError: the answer ended before it was whole, or is too long."""
    if not _is_framed(response):
        raise ValueError("its answer ended in its headers")
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > _MOST_BYTES:
            response.close()
            raise ValueError(f"its answer is longer than {_MOST_BYTES >> 20} MiB")
    return bytes(body)


def _is_framed(response: requests.Response) -> bool:
    """Whether all headers came, as far as one can tell: Python takes a connection's end for the end of the headers, and so a cut one
    for a yes."""
    headers = response.headers
    if response.status_code in _WITHOUT_BODY:
        return bool(headers)
    says_that_it_ends = "close" in headers.get("Connection", "").lower()
    return "Content-Length" in headers or "Transfer-Encoding" in headers or says_that_it_ends


def _name_cause(error: BaseException) -> str:
    """The innermost cause: what wraps it tells of pools and retries that there are none of, and of addresses of objects."""
    seen = set[int]()
    while (cause := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        if not isinstance(cause, BaseException):
            break
        seen.add(id(cause))
        error = cause
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_distrust(error)
    text = getattr(error, "strerror", None) or str(error)
    return text if isinstance(text, str) and text else type(error).__name__


def _explain_distrust(error: ssl.SSLCertVerificationError) -> str:
    advice = ""
    if error.verify_code in _UNKNOWN_SIGNERS:
        advice = "; name a file with its issuer's certificate, or its own, as ca_file in the inventory"
    elif error.verify_code in _OTHER_NAMES:
        advice = "; write its address into the inventory as the certificate has it"
    return f"its certificate is not trusted: {error.verify_message.rstrip('.')}{advice}"


def _make_connector(target: Target, line: Line, adapter: LineAdapter, credentials: Credentials) -> Connector:
    """sushy's connector over one line; we judge each answer before it does."""

    def judge(response: requests.Response) -> None:
        if response.status_code >= 400:
            raise read_refusal(response.status_code, _read_json(response), credentials.redact)

    host = f"[{target.address}]" if ":" in target.address else target.address
    connector = Connector(f"https://{host}:{target.port}", verify=target.verify_tls, response_callback=judge)
    connector.close()
    connector._session = _BoundedSession(line)
    connector._session.mount("https://", adapter)
    return connector


def _read_json(response: requests.Response) -> Any:
    """None: there is none, or none that can be read."""
    try:
        return response.json() if response.content else None
    except (ValueError, RecursionError):
        return None


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
            answer = _read_answer(send(path, data=body, headers=headers))
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


def _read_answer(response: requests.Response) -> Answer:
    headers = response.headers
    return Answer(
        response.status_code,
        _read_json(response),
        as_path(headers.get("Location")),
        headers.get("ETag"),
        headers.get("X-Auth-Token"),
        headers.get("Retry-After"),
    )


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
        connector = _make_connector(self._target, line, adapter, self._credentials)
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
