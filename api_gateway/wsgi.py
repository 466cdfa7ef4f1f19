"""The HTTP API: the application factory, the order of its middleware, and ``crashcart-api``, which serves it.

No request ever waits for the broker: what is accepted is committed to the store and cast by ``crashcart-engine``. The application starts no
threads of its own.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import falcon
from granian import Granian
from granian.constants import Interfaces
from oslo_config import cfg
from oslo_log import log

from api_gateway import faults
from api_gateway.auth import Authentication, LoopbackGuard, create_strategy, is_loopback_name
from api_gateway.compute.routes import ROUTES as COMPUTE_ROUTES
from api_gateway.config import load_config
from api_gateway.context import Request
from api_gateway.gateway import Gateway, Settings
from api_gateway.limits import Limits
from api_gateway.microversion import Microversions
from api_gateway.native.routes import ROUTES as NATIVE_ROUTES
from api_gateway.native.waiting import LongPolls
from api_gateway.request_ids import RequestIds
from api_gateway.routing import add_routes
from api_gateway.store import SchemaOutdated, Store, StoreError
from api_gateway.wake import WakeSender
from compute_agent.contract.clock import Clock, SystemClock

LOG = logging.getLogger(__name__)

_STOP_TIMEOUT_SECONDS = 5
_PR_SET_PDEATHSIG = 1


def create_app(
    conf: cfg.ConfigOpts,
    *,
    store: Store,
    clock: Clock | None = None,
    wake: Callable[[], object] = lambda: None,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> "falcon.App[Any, Any]":
    """The application over an open store.

    :param wake: called after each commit of a new action; must neither block nor raise
    :param new_id: makes a UUID for each request
    """
    clock = clock or SystemClock()
    strategy = create_strategy(conf)
    middleware: list[Any] = [
        RequestIds(new_id),  # first, so that every refusal below carries the id
        *([LoopbackGuard()] if strategy.loopback_only else []),
        Limits(),
        Authentication(strategy),
        Microversions(),
    ]
    app: falcon.App[Any, Any] = falcon.App(request_type=Request, middleware=middleware)
    app.req_options.strip_url_path_trailing_slash = False
    faults.install(app)
    gateway = Gateway(
        store=store,
        clock=clock,
        wake=wake,
        settings=_read_settings(conf),
        long_polls=LongPolls(store, clock, conf.api.long_poll_waiters),
    )
    add_routes(app, gateway, (*COMPUTE_ROUTES, *NATIVE_ROUTES))
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """``crashcart-api``: serve until SIGTERM or SIGINT; 1 when it must not or cannot start."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    conf = load_config(arguments, prog="crashcart-api")
    log.setup(conf, "crashcart")
    refusal = find_refusal(conf)
    if refusal is not None:
        LOG.error("crashcart-api does not start: %s", refusal)
        return 1
    multiprocessing.set_start_method("spawn", force=True)  # a worker inherits no thread, lock or connection of this process
    server = Granian(
        "api_gateway.wsgi",
        address=conf.api.listen_host,
        port=conf.api.listen_port,
        interface=Interfaces.WSGI,
        workers=conf.api.workers,
        blocking_threads=conf.api.threads,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_TIMEOUT_SECONDS,
        process_name=f"crashcart-api {conf.api.listen_host}:{conf.api.listen_port}",
        log_enabled=False,
    )
    LOG.info("listening on %s port %s, %s workers", conf.api.listen_host, conf.api.listen_port, conf.api.workers)
    server.serve(target_loader=partial(_create_worker, arguments, os.getpid()), wrap_loader=False)
    return 0


def find_refusal(conf: cfg.ConfigOpts) -> str | None:
    """Why this configuration must not be served, or None."""
    host = conf.api.listen_host
    if create_strategy(conf).loopback_only and not is_loopback_name(host):
        return f"[api] auth_strategy {conf.api.auth_strategy} lets everybody in: listen_host {host} must be a loopback address"
    store = _open_store(conf)
    try:
        store.check_schema()
    except SchemaOutdated as error:
        return str(error)
    except StoreError as error:
        return f"the store cannot be used: {error}"
    finally:
        store.dispose()
    return None


def _create_worker(arguments: Sequence[str], parent: int) -> "falcon.App[Any, Any]":
    """Runs in each worker process: everything that holds a connection or a lock is made here."""
    _die_with(parent)
    conf = load_config(arguments, prog="crashcart-api")
    log.setup(conf, "crashcart")
    return create_app(conf, store=_open_store(conf), wake=_create_wake(conf))


def _die_with(parent: int) -> None:
    """Ask the kernel to stop this worker when the main process is killed: an orphan would keep the port and answer for ever."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(1)  # it was killed before we asked


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
        max_wait=conf.api.long_poll_limit,
        max_page=conf.api.max_limit,
    )
