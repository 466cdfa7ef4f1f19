"""What an operator may set of the driver for bare metal; kept apart so that it can be documented without its libraries."""

from oslo_config import cfg

GROUP = "bmc"

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "inventory",
        default="/etc/crashcart/bmc_inventory.yaml",
        help="YAML file of the machines that this agent serves: their ids and names, where their BMCs are and what these speak. It names "
        "where each password is kept and holds none. Read again at SIGHUP.",
    ),
    cfg.FloatOpt(
        "call_bound",
        default=15.0,
        min=1.0,
        help="Seconds after which the outcome of a begun call to a BMC is unknown; every exchange with one is given up before.",
    ),
    cfg.FloatOpt(
        "poll_interval",
        default=30.0,
        min=0.1,
        help="Seconds between two looks at a machine: its power, its watchdog timer, and what is new in its BMC's log.",
    ),
    cfg.FloatOpt(
        "attentive_interval",
        default=2.0,
        min=0.1,
        help="The same for attentive_span seconds after an NMI, when what the machine does next matters most.",
    ),
    cfg.FloatOpt("attentive_span", default=300.0, min=0.0, help="Seconds after an NMI in which a machine is looked at more often."),
    cfg.IntOpt(
        "poll_threads",
        default=8,
        min=2,
        help="Machines that are looked at at the same time. BMCs that did not answer the last time use half of these at most, so that they "
        "keep no other waiting.",
    ),
    cfg.FloatOpt(
        "watchdog_countdown",
        default=300.0,
        min=1.0,
        max=6553.5,
        help="Seconds that a BMC's watchdog timer counts before it fires, where it had no countdown of its own when it was set.",
    ),
]


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register the group on ``conf``; may be called more than once."""
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For the generated configuration reference."""
    return [(GROUP, OPTIONS)]
