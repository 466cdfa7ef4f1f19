"""Options of what ``crashcart-engine`` runs, a group for each of its roles; those of deliveries are with these."""

from oslo_config import cfg

ROLES = ("dispatcher", "recorder", "sweep", "outbox", "deliveries", "stream")
COMMAND_LINE_OPTIONS: list[cfg.Opt] = [cfg.StrOpt("only", choices=ROLES, help=f"Run one role alone: {', '.join(ROLES)}.")]

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
    cfg.IntOpt("workers", default=8, min=1, help="Casts in flight at most, to different hosts."),
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
    cfg.IntOpt(
        "gap_tries",
        default=10,
        min=1,
        help="How often missing events are asked for before they are recorded as lost: with the default pauses some 30 minutes. A try in "
        "which the broker could not be reached does not count, nor does the time in which the agent is down.",
    ),
    cfg.FloatOpt(
        "gap_retry",
        default=10.0,
        min=0.1,
        help="Seconds between the first two of those tries; doubled from try to try, up to five minutes.",
    ),
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
