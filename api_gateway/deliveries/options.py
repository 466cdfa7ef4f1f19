"""Options of deliveries: groups ``[deliveries]`` and ``[smtp]``."""

from oslo_config import cfg, types

from api_gateway.deliveries.addresses import Network, parse_network


class _NetworkType(types.ConfigType):
    """A network in CIDR notation."""

    def __init__(self) -> None:
        super().__init__(type_name="network")

    def __call__(self, value: str) -> Network:
        return parse_network(value)

    def _formatter(self, value: Network) -> str:
        return str(value)


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
