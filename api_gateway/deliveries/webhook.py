"""Deliveries by HTTP POST, signed as https://www.standardwebhooks.com says.

The target's name is resolved once for each try and the connection goes to an address that was found then and there, under the name that the
certificate must have. Nothing else is asked: neither a proxy nor another place that the target names.
"""

import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from api_gateway.ascii_json import write_json
from api_gateway.deliveries.addresses import Resolver, is_allowed, resolve
from api_gateway.deliveries.cutoff import cut_off_after
from api_gateway.deliveries.outcome import Message, NotDelivered
from api_gateway.deliveries.signature import sign
from api_gateway.deliveries.targets import TargetRefused, TargetRules, WebhookUrl, not_allowed
from compute_agent.contract import versions
from compute_agent.contract.clock import Clock

_ID = re.compile(r"[0-9A-Za-z_-]{1,255}")
_GONE = 410
_CONNECT_TIMEOUT = 5.0
_MOST_ADDRESSES = 3
"""Of one name that are tried, while they refuse connections."""
_MOST_BYTES = 16_384
"""Of an answer that are read before it is left."""
_LONGEST_WAIT = 86_400.0
"""Seconds that a target may ask to be left alone."""


class WebhookSender:
    """Implements :class:`api_gateway.deliveries.outcome.Sender`.

    :param timeout: seconds that a try may take, from the connection on; the resolver has its own limits
    :param context: whom to trust for https
    """

    def __init__(self, rules: TargetRules, clock: Clock, *, timeout: float, context: ssl.SSLContext, resolver: Resolver = resolve) -> None:
        self._rules = rules
        self._clock = clock
        self._timeout = timeout
        self._context = context
        self._resolver = resolver

    def send(self, message: Message) -> None:
        """:raises NotDelivered: no 2xx came."""
        try:
            url = self._rules.check_webhook(message.subscription.target)  # what is allowed may have changed since
            addresses = self._find_addresses(url)
        except TargetRefused as error:
            raise NotDelivered(str(error)) from error
        body = write_json(message.event)
        headers = self._build_headers(message, url, body)
        for number, address in enumerate(addresses, 1):
            try:
                self._post(url, address, headers, body)
            except _Unreachable:
                if number == len(addresses):
                    raise
            else:
                return

    def _find_addresses(self, url: WebhookUrl) -> Sequence[str]:
        """:raises NotDelivered: the name has none.
        :raises TargetRefused: none of them is allowed.
        """
        try:
            found = self._resolver(url.host, url.port)
        except (OSError, UnicodeError) as error:
            raise NotDelivered(f"The name {url.host} cannot be resolved.") from error
        allowed = [address for address in found if is_allowed(address, self._rules.allowed_networks)]
        if not allowed:
            raise not_allowed(url.host)
        return allowed[:_MOST_ADDRESSES]

    def _build_headers(self, message: Message, url: WebhookUrl, body: bytes) -> dict[str, str]:
        event_id = str(message.event["id"])
        message_id = event_id if _ID.fullmatch(event_id) else message.delivery.replace(".", "-")
        timestamp = int(self._clock.now().timestamp())
        return {
            "Host": url.authority,
            "Content-Type": "application/json",
            "User-Agent": f"crashcart/{versions.RELEASE}",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(message.subscription.secret or "", message_id, timestamp, body),
        }

    def _post(self, url: WebhookUrl, address: str, headers: dict[str, str], body: bytes) -> None:
        """:raises _Unreachable: nothing was sent, so another address may be tried.
        :raises NotDelivered: it was perhaps received, but not answered with 2xx.
        """
        connection = self._connect(url, address)
        link = connection.sock
        try:
            with cut_off_after(self._timeout, lambda: link):
                connection.request("POST", url.path, body=body, headers=headers, preload_content=False, decode_content=False)
                answer = connection.getresponse()
                with suppress(HTTPError, HTTPException, OSError):  # the status is known
                    answer.read(_MOST_BYTES)
        except TimeoutError as error:
            raise NotDelivered(f"{url.host} did not answer within {self._timeout:g} s.") from error
        except (HTTPError, HTTPException, OSError) as error:
            raise NotDelivered(f"{url.host} closed the connection without an answer, or answered something that is not HTTP.") from error
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise self._explain(url, answer.status, answer.headers.get("Retry-After"))

    def _connect(self, url: WebhookUrl, address: str) -> HTTPConnection:
        """To this address and no other, whatever the name leads to by now; the certificate must be the name's all the same."""
        connection: HTTPConnection
        if url.is_https:
            connection = HTTPSConnection(
                address, url.port, timeout=min(self._timeout, _CONNECT_TIMEOUT), ssl_context=self._context, server_hostname=url.host
            )
        else:
            connection = HTTPConnection(address, url.port, timeout=min(self._timeout, _CONNECT_TIMEOUT))
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise NotDelivered(f"The certificate of {url.host} is not to be trusted: {error.verify_message}.") from error
        except (HTTPError, OSError) as error:
            connection.close()
            what = "TLS with it failed" if isinstance(error, ssl.SSLError) else "it cannot be connected to"
            raise _Unreachable(f"{url.host} port {url.port}: {what}.") from error
        connection.timeout = self._timeout
        return connection

    def _explain(self, url: WebhookUrl, status: int, retry_after: str | None) -> NotDelivered:
        if status == _GONE:
            return NotDelivered(f"{url.host} answered 410: it does not want to be told any more.", is_final=True)
        what = f"{status}, which leads elsewhere; no redirect is followed" if 300 <= status < 400 else str(status)
        return NotDelivered(f"{url.host} answered {what}.", retry_after=self._read_retry_after(retry_after))

    def _read_retry_after(self, text: str | None) -> float:
        """Seconds; 0 for what is neither a number of them nor a date."""
        if text is None:
            return 0.0
        text = text.strip()
        if text.isascii() and text.isdecimal():
            return min(float(text[:9]), _LONGEST_WAIT)
        try:
            until = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return 0.0
        until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
        return min(max((until - self._clock.now()).total_seconds(), 0.0), _LONGEST_WAIT)


class _Unreachable(NotDelivered):
    """Not even a byte of the event went out."""
