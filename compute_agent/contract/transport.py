"""One oslo.messaging transport for RPC, with the settings that held through broker restarts and freezes (measured).

Operators may override any of them in ``[oslo_messaging_rabbit]``. Queue types are part of the contract between releases: changing
them on queues that exist makes RabbitMQ refuse the declaration with 406.

Import ``oslo_messaging`` from here and nowhere else: it must be imported after its thread backend was chosen.
"""

import sys
from functools import cache

from oslo_config import cfg

# oslo.service brings eventlet along, and libraries load it when it is there. Nothing here ever runs on it: to them it is not installed.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

from oslo_service import backend  # noqa: E402

backend.init_backend(backend.BackendType.THREADING)  # must come before oslo_messaging is imported

import oslo_messaging  # noqa: E402
import oslo_messaging.exceptions  # noqa: E402
import oslo_messaging.opts  # noqa: E402
from oslo_messaging._metrics import client as metrics_client  # noqa: E402
from oslo_messaging._tracing import client as tracing_client  # noqa: E402

from compute_agent.contract.broker import find_tls  # noqa: E402
from compute_agent.contract.topics import CALL_TOPIC, RPC_EXCHANGE, RPC_TOPIC  # noqa: E402

__all__ = ["CALL_TOPIC", "RPC_EXCHANGE", "RPC_TOPIC", "create_rpc_transport", "oslo_messaging", "register_messaging_options"]

_RABBIT_DEFAULTS = {
    "rabbit_quorum_queue": True,
    "rabbit_transient_quorum_queue": True,
    "heartbeat_timeout_threshold": 10,
    "rabbit_retry_interval": 1,
    "rabbit_retry_backoff": 0,
    "rabbit_interval_max": 1,
    "kombu_reconnect_delay": 0.1,
    "kombu_missing_consumer_retry_timeout": 5,
}
_LOOK_INTERVAL = 1.0
"""Seconds; the connection's heartbeat and a server's stop are looked at as often."""


def register_messaging_options(conf: cfg.ConfigOpts) -> None:
    """Register oslo.messaging's options on ``conf`` with crashcart's defaults; the configuration file still wins."""
    for group, options in _list_options():
        conf.register_opts(options, group=group)
    # oslo.messaging registers these two groups on the global CONF only; a cast over a private one would raise NoSuchOptError.
    conf.register_opts(metrics_client.oslo_messaging_metrics, group="oslo_messaging_metrics")
    conf.register_opts(tracing_client.oslo_messaging_tracing, group="oslo_messaging_tracing")
    conf.set_default("control_exchange", RPC_EXCHANGE)
    conf.set_default("rpc_response_timeout", 5)
    conf.set_default("executor_thread_pool_size", 8)
    for name, value in _RABBIT_DEFAULTS.items():
        conf.set_default(name, value, group="oslo_messaging_rabbit")


@cache
def _list_options() -> list[tuple[str | None, list[cfg.Opt]]]:
    """Those of RabbitMQ and those of all drivers; once, as oslo.messaging copies them deeply each time that it is asked."""
    return [(group, options) for group, options in oslo_messaging.opts.list_opts() if group in (None, "oslo_messaging_rabbit")]


def create_rpc_transport(conf: cfg.ConfigOpts) -> oslo_messaging.Transport:
    """A transport over ``conf.transport_url``; make it after fork, never before.

    :raises oslo_messaging.InvalidTransportURL: when the URL is none.
    :raises oslo_messaging.DriverLoadFailure: when its scheme names no driver.
    :raises ValueError: TLS is asked for, and nothing to verify the broker with.
    """
    register_messaging_options(conf)
    find_tls(conf)
    transport = oslo_messaging.get_rpc_transport(conf)
    _wait_for_messages()
    return transport


def _wait_for_messages() -> None:
    """Let an RPC server wait for its next message. oslo.messaging looks for it after 1, 2, 4, ... milliseconds, anew after each message:
    ten looks for an action cost an agent as much as the action. They are for acknowledgements out of other threads, of which RPC has none:
    it acknowledges what it has read before anything is done with it."""
    from oslo_messaging._drivers import amqpdriver  # loaded with the transport, not before

    amqpdriver.ACK_REQUEUE_EVERY_SECONDS_MIN = _LOOK_INTERVAL
