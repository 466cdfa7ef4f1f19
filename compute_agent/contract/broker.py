"""Plain AMQP connections to the broker of ``transport_url``, for what is not RPC: publishing, consuming, the agent's lock.

Nothing here retries: one call tries one broker node, and its caller owns the loop, its patience and its stop signal. Every read and
write on a link is bounded in time, so a broker that is frozen or in alarm can hold a thread for ``IO_TIMEOUT`` at most.
"""

import itertools
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import kombu
import kombu.exceptions
from kombu.transport.pyamqp import Connection as Link
from kombu.transport.pyamqp import Transport as PyAmqpTransport
from oslo_config import cfg

_DEFAULT_ACCOUNT = "guest"
"""Whom kombu logs in as without being told."""

__all__ = ["BROKER_ERRORS", "BrokerAddress", "Link", "find_tls", "list_accounts", "list_broker_urls"]

HEARTBEAT = 10
"""AMQP heartbeat in seconds: both sides notice a dead peer after two of them."""
CONNECT_TIMEOUT = 5.0
IO_TIMEOUT = 10.0
"""The longest in seconds that a read or write which expects progress may stand still."""

BROKER_ERRORS: tuple[type[Exception], ...] = (
    *PyAmqpTransport.connection_errors,
    *PyAmqpTransport.channel_errors,
    kombu.exceptions.OperationalError,
    TimeoutError,
)
"""What a link may raise when the broker is away, slow, or refuses; the link is then of no more use."""


def list_broker_urls(transport_url: str) -> tuple[str, ...]:
    """oslo.messaging's ``rabbit://user:pw@a:1,user:pw@b:2/vhost`` as one ``amqp://`` URL per broker node.

    :raises ValueError: when the URL names no RabbitMQ.
    """
    scheme, separator, rest = transport_url.partition("://")
    if not separator or scheme not in ("rabbit", "amqp", "kombu"):
        raise ValueError(f"transport_url must begin with rabbit://, not with {scheme!r}")
    hosts, _, path = rest.partition("/")
    vhost = path.partition("?")[0]
    return tuple(f"amqp://{host}/{vhost}" for host in hosts.split(",") if host)


def list_accounts(transport_url: str) -> frozenset[str]:
    """The accounts that a transport URL logs in with, one for all broker nodes or several.

    :raises ValueError: when the URL names no RabbitMQ.
    """
    users = (urlsplit(url).username for url in list_broker_urls(transport_url))
    return frozenset(unquote(user or _DEFAULT_ACCOUNT) for user in users)


def find_tls(conf: cfg.ConfigOpts) -> dict[str, Any] | None:
    """TLS settings as kombu wants them, from the same ``[oslo_messaging_rabbit]`` options that RPC uses; None: no TLS.

    :raises ValueError: there is nothing to verify the broker's certificate with. oslo.messaging would take any name's certificate then.
    """
    options = conf.oslo_messaging_rabbit
    if not options.ssl:
        return None
    if not options.ssl_ca_file:
        raise ValueError(
            "[oslo_messaging_rabbit] ssl needs ssl_ca_file: without it any broker would do (the system's own is a file as well)"
        )
    names = {"keyfile": options.ssl_key_file, "certfile": options.ssl_cert_file, "ca_certs": options.ssl_ca_file}
    return {"cert_reqs": ssl.CERT_REQUIRED, **{name: value for name, value in names.items() if value}}


class BrokerAddress:
    """Where the broker is and how to log in; opens links, to each of its nodes in turn.

    :param transport_url: ``rabbit://`` as oslo.messaging takes it, or ``amqp://``
    :param name: shown by RabbitMQ as the connection's name
    :param tls: from :func:`find_tls`
    """

    def __init__(self, transport_url: str, *, name: str, tls: dict[str, Any] | None = None) -> None:
        urls = list_broker_urls(transport_url)
        if not urls:
            raise ValueError("transport_url names no broker: it is rabbit://account:password@host:5672/, in the file of --config-file")
        self.name = name
        self._tls = tls
        self._urls: Iterator[str] = itertools.cycle(urls)
        self.label = ",".join(_describe(urls))

    def open_link(
        self,
        *,
        on_blocked: Callable[[str], None] | None = None,
        on_unblocked: Callable[[], None] | None = None,
        heartbeat: int = HEARTBEAT,
    ) -> Link:
        """Connect to the next node, once.

        :param on_blocked: called from within a read when the broker is in alarm and takes no publishes
        :param heartbeat: in seconds; whoever asks for one has to call ``heartbeat_tick`` twice as often, or the broker closes the link
            after two to three of them. 0: none, for a link on which nothing is said for a while
        :raises BROKER_ERRORS: within about ``CONNECT_TIMEOUT``.
        """
        options = {
            "read_timeout": IO_TIMEOUT,
            "write_timeout": IO_TIMEOUT,
            "on_blocked": on_blocked,
            "on_unblocked": on_unblocked,
            "client_properties": {"connection_name": self.name},
        }
        url = next(self._urls)
        # The name makes py-amqp compare it with the certificate's; without one any that the CA made would do.
        tls = False if self._tls is None else {**self._tls, "server_hostname": urlsplit(url).hostname}
        broker = kombu.Connection(url, ssl=tls, heartbeat=heartbeat, connect_timeout=CONNECT_TIMEOUT, transport_options=options)
        link: Link = broker.transport.establish_connection()
        # py-amqp reads on after read_timeout (it takes EAGAIN for an interruption); only the socket's own timeout ends a read.
        link.sock.settimeout(IO_TIMEOUT)
        return link


def _describe(urls: Sequence[str]) -> list[str]:
    """Hosts and ports without credentials, for logs."""
    return [urlsplit(url).netloc.rpartition("@")[2] for url in urls]
