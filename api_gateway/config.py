"""The gateway's configuration (oslo.config), for all of its processes; registered on a ``ConfigOpts`` that is handed in.

Options that one part of it reads are beside that part (``api_options``, ``engine_options``, ``deliveries.options``), the others here.

``transport_url`` and ``[oslo_messaging_rabbit]`` are oslo.messaging's own: whatever speaks to the broker registers them with
``compute_agent.contract.transport.register_messaging_options``. ``[oslo_policy]`` is oslo.policy's; ``[keystone_authtoken]`` is
keystonemiddleware's and registered when ``auth_strategy`` is ``keystone``.
"""

import os
import secrets
import socket
import sys
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log
from oslo_policy import opts as oslo_policy_options

from api_gateway.api_options import API_OPTIONS
from api_gateway.deliveries.options import DELIVERIES_OPTIONS, SMTP_OPTIONS
from api_gateway.engine_options import DISPATCHER_OPTIONS, RECORDER_OPTIONS, STREAM_OPTIONS, SWEEP_OPTIONS
from compute_agent.contract import versions

DEFAULT_CONFIG_FILE = "/etc/crashcart/gateway.conf"

DATABASE_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "connection",
        default="sqlite:////var/lib/crashcart/gateway.sqlite",
        secret=True,
        help="SQLAlchemy URL of the gateway's database. SQLite needs a local disk and serves one machine; for gateways on two machines "
        "use PostgreSQL or MariaDB.",
    ),
    cfg.FloatOpt(
        "busy_timeout", default=5.0, min=0.1, help="Seconds that a transaction waits for another one before the request is answered 503."
    ),
    cfg.IntOpt("pool_size", default=20, min=1, help="Database connections at most, for each process."),
]

UPGRADE_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "compute_agent",
        default="",
        help="How much of the RPC contract agents are told while some of them run another release. Empty: all of this release's, and an "
        "agent whose own release does not take a request is not sent it (400). A release (" + ", ".join(versions.RELEASES) + ") or an RPC "
        f"version (rpc-{versions.RPC_API_VERSION}): no more than that, whoever it is. auto: no more than the lowest that any known host's "
        "agent speaks, also of those that are down; it follows them without a restart. crashcart-manage versions shows what it comes to "
        "and what holds it back.",
    ),
]

SIGNING_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "private_key",
        default="",
        help="File with the Ed25519 key that signs whatever agents are told, made by crashcart-manage create-signing-key and readable for "
        "its owner only; read at the start. Empty: nothing is signed, and agents with [signing] trusted_keys refuse it.",
    ),
    cfg.StrOpt("issuer", default="gateway", help="The name under which agents hold its public key: ISSUER.pem."),
]

_GROUPS: dict[str, list[cfg.Opt]] = {
    "database": DATABASE_OPTIONS,
    "api": API_OPTIONS,
    "dispatcher": DISPATCHER_OPTIONS,
    "recorder": RECORDER_OPTIONS,
    "sweep": SWEEP_OPTIONS,
    "deliveries": DELIVERIES_OPTIONS,
    "smtp": SMTP_OPTIONS,
    "stream": STREAM_OPTIONS,
    "upgrade_levels": UPGRADE_OPTIONS,
    "signing": SIGNING_OPTIONS,
}


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo.config's generators: the configuration reference is made from this."""
    return list(_GROUPS.items())


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register the gateway's options and oslo.policy's on ``conf``; may be called more than once."""
    oslo_policy_options.set_defaults(conf)
    for group, options in _GROUPS.items():
        conf.register_opts(options, group=group)


def load_config(
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    config_files: Sequence[str] | None = None,
    cli_opts: Sequence[cfg.Opt] = (),
) -> cfg.ConfigOpts:
    """A ``ConfigOpts`` of its own with the gateway's and oslo.log's options, read from files, environment and ``argv``.

    :param argv: arguments without the program's name; None for this process's own
    :param config_files: read when ``argv`` names none; None for ``/etc/crashcart/gateway.conf`` where that exists
    :param cli_opts: further options of this program alone
    :raises cfg.Error: a file is missing or a value does not fit.
    """
    conf = cfg.ConfigOpts()
    register_options(conf)
    log.set_defaults(default_log_levels=[*log.get_default_log_levels(), "alembic=WARN", "urllib3.connection=ERROR"])
    log.register_options(conf)
    conf.register_cli_opts(list(cli_opts))
    if config_files is None:
        config_files = [DEFAULT_CONFIG_FILE] if os.path.exists(DEFAULT_CONFIG_FILE) else []
    conf(
        list(sys.argv[1:] if argv is None else argv),
        project="crashcart",
        prog=prog,
        version=versions.RELEASE,
        default_config_files=list(config_files),
    )
    for group, options in _GROUPS.items():
        for option in options:
            conf[group][option.dest]  # oslo.config looks at a value when it is first asked for: at start, not in the middle of the work
    return conf


def create_process_name(role: str) -> str:
    """A name for this process among all gateways (lease owner, publisher id): role, machine, process id, and what tells it from another
    container's process of the same number, and from who had that number before."""
    return f"{role}:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def get_stream_url(conf: cfg.ConfigOpts) -> str:
    """Where clients reach the event stream, without a path."""
    options = conf.stream
    if options.public_url:
        return str(options.public_url).rstrip("/")
    host = f"[{options.listen_host}]" if ":" in options.listen_host else options.listen_host
    return f"http://{host}:{options.listen_port}"
