"""What the production client hands to oslo.messaging's driver: under a pin as well, where some of it must not leave the house."""

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from oslo_config import cfg

from compute_agent.contract.rpcapi import ComputeAgentAPI, VersionTooLow
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options
from compute_agent.contract.wire import WireModel

Verbs = Mapping[str, Callable[[ComputeAgentAPI], object]]
"""By method: how the client is told to send it."""


def record_rpc(verbs: Verbs, replies: Mapping[str, WireModel], pin: str | None = None) -> tuple[dict[str, Any], frozenset[str]]:
    """What is sent of each method, and the methods of which the pin lets nothing be sent.

    :param replies: what comes back of calls, by method
    :param pin: the highest RPC version; None for this release's own
    """
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    register_messaging_options(conf)
    conf.set_override("transport_url", "fake://")
    transport = create_rpc_transport(conf)
    api = ComputeAgentAPI(transport, None if pin is None else lambda _host: pin)
    sent: dict[str, Any] = {}
    refused = set()

    def record(target: Any, context: dict[str, Any], message: dict[str, Any], **options: Any) -> Any:
        sent[message["method"]] = {
            "exchange": target.exchange or conf.control_exchange,
            "topic": target.topic,
            "server": target.server,
            "context": context,
            "message": message,
            "mandatory": bool(options["transport_options"] and options["transport_options"].at_least_once),
            "waits_for_reply": bool(options.get("wait_for_reply")),
        }
        reply = replies.get(message["method"])
        return None if reply is None else reply.to_wire()

    with mock.patch.object(transport._driver, "send", record):
        for method, send in verbs.items():
            try:
                send(api)
            except VersionTooLow:
                refused.add(method)
    transport.cleanup()
    return sent, frozenset(refused)
