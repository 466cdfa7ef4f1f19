"""The HTTP API: the application factory, the order of its middleware, and ``crashcart-api``, which serves it.

What is accepted is committed to the store and cast by ``crashcart-engine``: no such request waits for the broker. What agents are asked
while a request waits goes through ``agent_calls``, with a limit; its few threads are the only ones that the application starts.
"""

import errno
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import falcon
from granian import Granian
from granian.constants import Interfaces, SSLProtocols
from oslo_config import cfg

from api_gateway import faults
from api_gateway.acceptance import Terms
from api_gateway.agent_calls import AgentCalls, create_agent_calls
from api_gateway.auth.authentication import Authentication
from api_gateway.auth.guards import LoopbackGuard, WebPageGuard, is_loopback_name
from api_gateway.auth.strategy import StrategyUnusable, create_strategy
from api_gateway.cast_signing import create_signer
from api_gateway.compute.routes import ROUTES as COMPUTE_ROUTES
from api_gateway.config import get_stream_url, load_config
from api_gateway.context import Request
from api_gateway.deliveries.wiring import read_target_rules
from api_gateway.documents import ROUTES as DOCUMENT_ROUTES
from api_gateway.fleet_versions import FleetVersions
from api_gateway.gateway import Gateway, Settings
from api_gateway.last_reports import LastReports
from api_gateway.limits import Limits
from api_gateway.microversion import Microversions
from api_gateway.native.routes import ROUTES as NATIVE_ROUTES
from api_gateway.native.waiting import LongPolls, Stopping
from api_gateway.pins import read_pin
from api_gateway.policy.rule_set import Policy
from api_gateway.reception import Reception
from api_gateway.reloading import Unreadable
from api_gateway.request_ids import RequestIds
from api_gateway.routing import add_routes
from api_gateway.rpc_versions import Speech
from api_gateway.store import Store, StoreError
from api_gateway.tls import find_certificate
from api_gateway.wake import WakeSender
from api_gateway.worker_process import StopSignals, die_with, let_forks_end
from compute_agent.contract.clock import Clock, SystemClock
from compute_agent.contract.logs import set_up_log
from compute_agent.contract.threads import take_short_turns

LOG = logging.getLogger(__name__)

_PROGRAM = "crashcart-api"
_STOP_TIMEOUT_SECONDS = 5
_PREDECESSOR_PATIENCE = 10.0
"""Seconds that the workers of a predecessor which was killed may take to end: what they have begun, and a long poll's notice of it."""
_BIND_PAUSE = 0.02
"""Seconds between two looks at a port that a predecessor may still hold; nobody tells when it lets go."""


class NotAllowed(Exception):
    """The configuration would let strangers in; the text says how."""


def create_app(
    conf: cfg.ConfigOpts,
    *,
    store: Store,
    clock: Clock | None = None,
    wake: Callable[[], object] = lambda: None,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    stopping: Stopping | None = None,
    agent_calls: AgentCalls | None = None,
) -> "falcon.App[Any, Any]":
    """The application over an open store.

    :param wake: called after each commit of a new action; must neither block nor raise
    :param new_id: makes a UUID for each request
    :param stopping: ends all long polls when the process stops; None: nothing does
    :param agent_calls: to ask agents with; None: over the RPC transport of ``conf``, made when it is first needed
    :raises ValueError: the pin of ``[upgrade_levels]`` names nothing that is known, or the key of ``[signing]`` cannot be used.
    :raises StrategyUnusable: the configured strategy lacks something.
    :raises Unreadable: a file of users or of the policy cannot be used.
    """
    clock = clock or SystemClock()
    speech = Speech(read_pin(conf), FleetVersions(store, clock))
    strategy = create_strategy(conf, clock)
    middleware: list[Any] = [
        RequestIds(new_id),  # first, so that every refusal below carries the id
        *([LoopbackGuard()] if strategy.loopback_only else []),
        *([WebPageGuard()] if strategy.browsers_log_in else []),
        Limits(),
        Authentication(strategy, Policy(conf, clock)),
        Microversions(),
    ]
    app: falcon.App[Any, Any] = falcon.App(request_type=Request, middleware=middleware)
    app.req_options.strip_url_path_trailing_slash = False
    faults.install(app)
    settings = _read_settings(conf)
    terms = Terms(settings.crash_dump_holdoff, settings.max_open_actions_per_host, speech)
    gateway = Gateway(
        store=store,
        clock=clock,
        wake=wake,
        new_id=new_id,
        settings=settings,
        long_polls=LongPolls(store, clock, conf.api.long_poll_waiters, stopping or threading.Event()),
        speech=speech,
        agent_calls=agent_calls or create_agent_calls(conf, speech.get_cap, clock),
        last_reports=LastReports(),
        terms=terms,
        reception=Reception(store, clock, terms),
    )
    add_routes(app, gateway, (*COMPUTE_ROUTES, *NATIVE_ROUTES, *DOCUMENT_ROUTES))
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """``crashcart-api``: serve until SIGTERM or SIGINT; 1 when it must not or cannot start."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        conf = load_config(arguments, prog=_PROGRAM)
        set_up_log(conf)
        certificate = find_certificate(conf)
        address = check_startable(conf, patience=_PREDECESSOR_PATIENCE)
    except (cfg.Error, StoreError, OSError, NotAllowed, StrategyUnusable, Unreadable, ValueError) as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return 1
    # A fork has all modules, which cost a second to import. It inherits nothing else: there is no connection, no lock that somebody holds,
    # and no thread but the server's, each of which waits for the end of one worker.
    multiprocessing.set_start_method("fork", force=True)
    let_forks_end()
    server = Granian(
        "api_gateway.wsgi",
        address=address,
        port=conf.api.listen_port,
        interface=Interfaces.WSGI,
        workers=conf.api.workers,
        blocking_threads=conf.api.threads,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_TIMEOUT_SECONDS,
        process_name=f"{_PROGRAM} {conf.api.listen_host}:{conf.api.listen_port}",
        log_enabled=False,
        ssl_cert=None if certificate is None else certificate.certificates,
        ssl_key=None if certificate is None else certificate.private_key,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    scheme = "http" if certificate is None else "https"
    LOG.info("listening on %s port %s (%s), %s workers", conf.api.listen_host, conf.api.listen_port, scheme, conf.api.workers)
    server.serve(target_loader=partial(_create_worker, arguments, os.getpid()), wrap_loader=False)
    return 0


def check_startable(conf: cfg.ConfigOpts, *, patience: float = 0.0) -> str:
    """Say in the main process what would otherwise fail in every worker.

    :param patience: seconds to wait for the address: the workers of a predecessor that was killed end only when it has
    :returns: the address to listen on.
    :raises NotAllowed: this configuration would let strangers in.
    :raises StrategyUnusable: its strategy lacks something.
    :raises Unreadable: a file of users or of the policy cannot be used.
    :raises StoreError: the store cannot be used; the text says what to do.
    :raises OSError: the address cannot be listened on, because somebody else does, say.
    :raises ValueError: the pin of ``[upgrade_levels]`` names nothing that is known, or the key of ``[signing]`` cannot be used.
    """
    read_pin(conf)
    host, port = conf.api.listen_host, conf.api.listen_port
    clock = SystemClock()
    create_signer(conf, clock)
    Policy(conf, clock)
    if create_strategy(conf, clock).loopback_only and not is_loopback_name(host):
        raise NotAllowed(f"[api] auth_strategy {conf.api.auth_strategy} lets everybody in: listen_host {host} must be a loopback address")
    address = _check_address(host, port, patience)
    store = _open_store(conf)
    try:
        store.check_schema()
    finally:
        store.dispose()
    return address


def _check_address(host: str, port: int, patience: float) -> str:
    """The server's own sockets share a port with anybody who does the same: two gateways would take turns in answering."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        give_up_at = time.monotonic() + patience
        while True:
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= give_up_at:
                    raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror or error}") from error
                time.sleep(_BIND_PAUSE)
            else:
                return str(address[0])


def _create_worker(arguments: Sequence[str], parent: int) -> "falcon.App[Any, Any]":
    """Runs in each worker process: everything that holds a connection or a lock is made here."""
    die_with(parent)
    take_short_turns()
    stopping = StopSignals()
    conf = load_config(arguments, prog=_PROGRAM)
    set_up_log(conf)
    return create_app(conf, store=_open_store(conf), wake=_create_wake(conf), stopping=stopping)


def _create_wake(conf: cfg.ConfigOpts) -> Callable[[], object]:
    path = conf.dispatcher.wake_socket
    return WakeSender(path).wake if path else lambda: None


def _open_store(conf: cfg.ConfigOpts) -> Store:
    return Store(conf.database.connection, busy_timeout=conf.database.busy_timeout, pool_size=conf.database.pool_size)


def _read_settings(conf: cfg.ConfigOpts) -> Settings:
    return Settings(
        crash_dump_deadline=timedelta(seconds=conf.api.crash_dump_deadline),
        max_deadline=timedelta(seconds=conf.api.max_deadline),
        crash_dump_holdoff=timedelta(seconds=conf.api.crash_dump_holdoff),
        max_open_actions_per_host=conf.api.max_open_actions_per_host,
        max_wait=conf.api.long_poll_limit,
        max_page=conf.api.max_limit,
        diagnostics_max_age=timedelta(seconds=conf.api.diagnostics_max_age),
        stream_url=get_stream_url(conf),
        max_subscriptions=conf.deliveries.max_subscriptions,
        target_rules=read_target_rules(conf),
    )
