"""Options of ``crashcart-api``: group ``[api]``."""

from oslo_config import cfg

from compute_agent.contract.deadlines import LONGEST_DEADLINE_MS

_LONGEST_DEADLINE = LONGEST_DEADLINE_MS // 1000

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
