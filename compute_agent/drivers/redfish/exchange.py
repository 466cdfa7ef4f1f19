"""One request to a BMC and its answer, through sushy's connector.

Of sushy the connector is used, which speaks HTTP as Redfish wants it, and not its resource classes: these take a whole document for
unreadable for one odd value, ask again on their own, and know no limit in time. What the connector does beyond one exchange is taken out
of its hands: it would send a request up to three times when an answer is lost, wait seconds in between, follow a redirect with the
password in hand, and log in anew on its own.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from sushy.connector import Connector

from compute_agent.drivers.bmc.protocol import Target
from compute_agent.drivers.redfish.documents import Document, as_path
from compute_agent.drivers.redfish.errors import NoAnswer, Unreachable, read_refusal
from compute_agent.drivers.redfish.line import Line, LineAdapter
from compute_agent.drivers.redfish.login import Credentials

_MOST_BYTES = 16 * 1024 * 1024
_CHUNK = 64 * 1024
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


def make_connector(target: Target, line: Line, adapter: LineAdapter, credentials: Credentials) -> Connector:
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


def read_answer(response: requests.Response) -> Answer:
    headers = response.headers
    return Answer(
        response.status_code,
        _read_json(response),
        as_path(headers.get("Location")),
        headers.get("ETag"),
        headers.get("X-Auth-Token"),
        headers.get("Retry-After"),
    )
