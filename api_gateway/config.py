"""The gateway's options (oslo.config), for all of its processes; registered on a ``ConfigOpts`` that is handed in.

``transport_url`` and ``[oslo_messaging_rabbit]`` are oslo.messaging's own: whatever speaks to the broker registers them with
``compute_agent.contract.transport.register_messaging_options``. ``[oslo_policy]`` is oslo.policy's; ``[keystone_authtoken]`` is
keystonemiddleware's and registered when ``auth_strategy`` is ``keystone``.
"""

import os
import socket
import sys
from collections.abc import Sequence

from oslo_config import cfg, types
from oslo_log import log
from oslo_policy import opts as oslo_policy_options

from api_gateway.deliveries.addresses import Network, parse_network
from compute_agent.contract import versions
from compute_agent.contract.broker_definitions import LONGEST_DEADLINE_MS

_LONGEST_DEADLINE = LONGEST_DEADLINE_MS // 1000
DEFAULT_CONFIG_FILE = "/etc/crashcart/gateway.conf"


class _NetworkType(types.ConfigType):
    """A network in CIDR notation."""

    def __init__(self) -> None:
        super().__init__(type_name="network")

    def __call__(self, value: str) -> Network:
        return parse_network(value)

    def _formatter(self, value: Network) -> str:
        return str(value)


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

API_OPTIONS: list[cfg.Opt] = [
    cfg.HostAddressOpt("listen_host", default="127.0.0.1", help="Address to listen on. auth_strategy none allows loopback only."),
    cfg.PortOpt("listen_port", default=8780, help="Port to listen on."),
    cfg.StrOpt(
        "tls_cert_file",
        default="",
        help="Serve HTTPS with this certificate (PEM, followed by those between it and a root; TLS 1.2 or later); plain HTTP is not "
        "answered then. Empty: plain HTTP. The event stream is served apart, without TLS: see [stream].",
    ),
    cfg.StrOpt("tls_key_file", default="", help="Private key of tls_cert_file (PEM, without a password); not for everybody to read."),
    cfg.IntOpt("workers", default=1, min=1, help="Worker processes."),
    cfg.IntOpt("threads", default=16, min=1, help="Threads of each worker that run requests."),
    cfg.StrOpt(
        "auth_strategy",
        default="none",
        choices=[
            ("none", "whoever reaches the port on the loopback interface is an admin of default_project, or whom the headers name"),
            ("http_basic", "users with passwords, out of http_basic_auth_user_file and http_basic_roles_file"),
            ("keystone", "tokens of an OpenStack Identity service; see [keystone_authtoken]; needs the extra keystone"),
        ],
        help="How the gateway learns who asks. What they may do is said by the policy.",
    ),
    cfg.StrOpt("default_project", default="demo", help="Project of a request that names none, under auth_strategy none."),
    cfg.StrOpt("default_user", default="admin", help="User of a request that names none, under auth_strategy none."),
    cfg.StrOpt(
        "http_basic_auth_user_file",
        default="/etc/crashcart/htpasswd",
        help="Apache htpasswd file with the users of auth_strategy http_basic: lines user:hash, bcrypt only (htpasswd -B). Must not be "
        "readable for everybody. Read again when it changes.",
    ),
    cfg.StrOpt(
        "http_basic_roles_file",
        default="/etc/crashcart/roles.yaml",
        help="YAML file that gives each user of http_basic_auth_user_file a project and roles (user: {project: NAME, roles: [ROLE]}). A "
        "user without an entry may ask nothing (403). Read again when it changes.",
    ),
    cfg.FloatOpt(
        "http_basic_cache_seconds",
        default=60.0,
        min=0.0,
        help="Seconds for which a checked password is remembered (as a keyed hash, in memory): a bcrypt check takes a tenth of a second or "
        "more. 0: each request is checked.",
    ),
    cfg.IntOpt(
        "crash_dump_deadline",
        default=30,
        min=1,
        max=_LONGEST_DEADLINE,
        help="Seconds until a crash dump asked for through the Compute API expires.",
    ),
    cfg.IntOpt(
        "max_deadline",
        default=3600,
        min=1,
        max=_LONGEST_DEADLINE,
        help="Longest deadline in seconds that a request to /v1 may ask for. Casts stay no longer in the broker.",
    ),
    cfg.IntOpt(
        "crash_dump_holdoff",
        default=600,
        min=0,
        help="Seconds after a crash dump signal in which another one is refused unless the server rebooted or stopped; 0 turns it off. "
        "Set it as on the agents, which have the last word.",
    ),
    cfg.IntOpt(
        "max_open_actions_per_host",
        default=200,
        min=1,
        help="Actions of one host's servers that may be open at a time; further requests are answered 429 until some of them ended.",
    ),
    cfg.IntOpt("long_poll_limit", default=60, min=0, help="Longest time in seconds that GET /v1/actions/{id}?wait= may wait."),
    cfg.IntOpt(
        "long_poll_waiters",
        default=8,
        min=0,
        help="Requests of each worker that may wait at the same time; further ones are answered at once with what is known.",
    ),
    cfg.IntOpt("max_limit", default=1000, min=1, help="Items at most on one page of a list."),
    cfg.FloatOpt(
        "diagnostics_timeout",
        default=3.0,
        min=0.1,
        help="Longest time in seconds that a request waits for what it asks an agent (diagnostics, a piece of a black box), whatever the "
        "message broker does. More than the agents' diagnostics_limit.",
    ),
    cfg.IntOpt(
        "agent_call_threads",
        default=4,
        min=1,
        help="Questions to agents that each worker has under way at most; one more is answered at once with what was last known, or 503. "
        "Keep it below threads.",
    ),
    cfg.IntOpt(
        "diagnostics_max_age",
        default=3600,
        min=0,
        help="Seconds after which the last known diagnostics are not told any more while a server's host does not answer.",
    ),
]

DISPATCHER_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "wake_socket",
        default="/run/crashcart/dispatcher.sock",
        help="Unix datagram socket of the dispatcher; the API sends one datagram after it committed an action. Empty: the dispatcher "
        "only looks once a second.",
    ),
    cfg.FloatOpt(
        "lease",
        default=5.0,
        min=1.0,
        help="Seconds after which another dispatcher may take over a cast that this one began. Well below every deadline: a cast that a "
        "dead dispatcher left behind must still be made in time, and a repeated one harms nothing.",
    ),
    cfg.FloatOpt(
        "received_timeout", default=5.0, min=0.1, help="Seconds without word from the agent after which the same action is cast again."
    ),
    cfg.IntOpt("workers", default=4, min=1, help="Casts in flight at most, to different hosts."),
]

RECORDER_OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt("batch_size", default=100, min=1, help="Events recorded in one transaction at most."),
    cfg.IntOpt(
        "shelf_max_messages",
        default=10_000,
        min=0,
        help="Messages on the dead-letter shelf (table dead_letters) at most; further ones that cannot be recorded are lost and counted, "
        "until somebody has looked at those and deleted them. crashcart-manage db check shows both numbers.",
    ),
    cfg.IntOpt("shelf_max_bytes", default=64 * 2**20, min=0, help="Bytes of messages on the dead-letter shelf at most."),
    cfg.BoolOpt(
        "verify_senders",
        default=False,
        help="Believe what is said of a host only if the message came from that host's own account at the message broker, agent.HOST, or "
        "from the gateway's (that of transport_url). Turn it on once every agent has its account (crashcart-manage "
        "broker-definitions): what comes from any other is put on the dead-letter shelf, and its heartbeats are dropped.",
    ),
    cfg.ListOpt(
        "gateway_accounts",
        default=[],
        help="With verify_senders: the gateway's accounts beside that of transport_url. Name those of the other machines where each "
        "gateway has its own, and the former one while an account is exchanged for another.",
    ),
]

SWEEP_OPTIONS: list[cfg.Opt] = [
    cfg.FloatOpt("interval", default=1.0, min=0.1, help="Seconds between two sweeps."),
    cfg.FloatOpt(
        "max_clock_skew",
        default=2.0,
        min=0.0,
        help="Seconds that clocks of gateway and agents may disagree; part of the grace after a deadline. Set it as on the agents.",
    ),
    cfg.FloatOpt(
        "host_dump_bound",
        default=3600.0,
        min=0.0,
        help="Seconds that a memory dump which its agent has begun may take beyond its deadline before it counts as unknown.",
    ),
    cfg.FloatOpt("missing_grace", default=600.0, min=0.0, help="Seconds that a server that is gone shows UNKNOWN before it is deleted."),
    cfg.IntOpt("gap_tries", default=5, min=1, help="How often missing events are asked for before they are recorded as lost."),
    cfg.FloatOpt("gap_retry", default=10.0, min=0.1, help="Seconds between the first two of those tries; doubled from try to try."),
    cfg.FloatOpt(
        "outbox_keep",
        default=86400.0,
        min=0.0,
        help="Seconds that the gateway's own events are kept after they were published; half of events_keep at most.",
    ),
    cfg.IntOpt(
        "events_keep",
        default=90,
        min=0,
        help="Days that recorded events are kept, those of actions that have not ended longer; 0: for ever. Longer than any agent is away: "
        "an event that is published again after it was forgotten is recorded again. Dead letters are kept until somebody deletes them.",
    ),
]

DELIVERIES_OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt("workers", default=8, min=1, help="Deliveries that an engine tries at the same time, each to another subscriber."),
    cfg.FloatOpt("timeout", default=15.0, min=0.1, help="Seconds that a target may take to answer; connecting is given 5 s of its own."),
    cfg.FloatOpt(
        "lease",
        default=60.0,
        min=1.0,
        help="Seconds after which another engine may repeat a try that this one has begun. Well above the timeout and what it may take to "
        "resolve a name: a repeated one tells the subscriber twice.",
    ),
    cfg.FloatOpt("retry_first", default=5.0, min=0.1, help="Seconds between the first two tries; doubled from try to try."),
    cfg.FloatOpt("retry_longest", default=900.0, min=0.1, help="Seconds between two tries at most, unless a target asks for more."),
    cfg.IntOpt(
        "max_tries",
        default=120,
        min=1,
        help="Tries after which a delivery is given up. With the defaults the last one comes 28 hours after the first.",
    ),
    cfg.FloatOpt("keep", default=7.0, min=0.0, help="Days that deliveries can be listed after they were made or given up."),
    cfg.IntOpt("max_subscriptions", default=50, min=0, help="Subscriptions that a project may have, and as many of all projects."),
    cfg.ListOpt(
        "allowed_networks",
        default=[],
        item_type=_NetworkType(),
        help="Networks (CIDR) that webhooks may call besides public addresses. Private, loopback, link-local, multicast and other special "
        "addresses are refused otherwise, whatever name leads to them.",
    ),
    cfg.BoolOpt("allow_plain_http", default=False, help="Whether webhooks may be called by http://, which anybody on the way can read."),
    cfg.StrOpt(
        "ca_file", default="", help="PEM file with the authorities to trust, of targets and of the mail server. Empty: the system's."
    ),
]

SMTP_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt("host", default="", help="Server to send mail through. Empty: subscriptions by e-mail are refused."),
    cfg.PortOpt("port", default=25, help="Its port."),
    cfg.StrOpt(
        "security",
        default="starttls",
        choices=[
            ("starttls", "TLS is begun on the plain port, with a certificate that holds, or the mail is not sent"),
            ("tls", "TLS from the first byte (port 465)"),
            ("none", "in the clear; without a login only"),
        ],
        help="How the connection is protected.",
    ),
    cfg.StrOpt("user", default="", help="User to log in as. Empty: no login."),
    cfg.StrOpt("password_file", default="", help="File with nothing but that user's password; read at each login."),
    cfg.StrOpt("sender", default="crashcart@localhost", help="Address that mails come from."),
    cfg.ListOpt("allowed_domains", default=[], help="Domains of addresses that may be subscribed. Empty: any."),
]

STREAM_OPTIONS: list[cfg.Opt] = [
    cfg.HostAddressOpt(
        "listen_host",
        default="127.0.0.1",
        help="Address that the event stream of crashcart-engine listens on, without TLS: a proxy brings it to other machines.",
    ),
    cfg.PortOpt(
        "listen_port",
        default=8785,
        help="Port that the event stream listens on. Of several engines on one machine one does, the others take over when it ends.",
    ),
    cfg.URIOpt(
        "public_url",
        schemes=["http", "https"],
        help="Where clients reach the event stream: the URL that the API sends them to, without the path, which is /v1/events/stream/live. "
        "Not set: listen_host and listen_port, which only clients on the same machine reach.",
    ),
    cfg.IntOpt("max_connections", default=1000, min=1, help="Readers that an event stream serves at a time; one more is answered 503."),
    cfg.IntOpt(
        "lifetime",
        default=3600,
        min=1,
        help="Seconds after which a stream ends. Its reader comes again, misses nothing, and is authenticated and permitted anew.",
    ),
]

UPGRADE_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "compute_agent",
        default="",
        help="Highest RPC version to send to agents, while some of them run an older release: a version (1.0) or a release "
        f"({', '.join(versions.RELEASES)}). Empty: this release's own.",
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
    """A name for this process among all gateways (lease owner, publisher id): role, machine, process id."""
    return f"{role}:{socket.gethostname()}:{os.getpid()}"


def get_stream_url(conf: cfg.ConfigOpts) -> str:
    """Where clients reach the event stream, without a path."""
    options = conf.stream
    if options.public_url:
        return str(options.public_url).rstrip("/")
    host = f"[{options.listen_host}]" if ":" in options.listen_host else options.listen_host
    return f"http://{host}:{options.listen_port}"


def find_rpc_pin(conf: cfg.ConfigOpts) -> str | None:
    """The RPC version that ``[upgrade_levels] compute_agent`` pins to; None for this release's own.

    :raises ValueError: it names neither a version of our history nor a release.
    """
    level = conf.upgrade_levels.compute_agent
    if not level:
        return None
    if level in versions.RELEASES:
        return versions.RELEASES[level].rpc
    known = [version.number for version in versions.RPC_HISTORY]
    if level in known:
        return str(level)
    raise ValueError(
        f"[upgrade_levels] compute_agent = {level}: neither an RPC version ({', '.join(known)}) "
        f"nor a release ({', '.join(versions.RELEASES)})"
    )
