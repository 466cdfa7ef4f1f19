"""What an operator may set of the libvirt driver; kept apart so that it can be documented without libvirt-python."""

from oslo_config import cfg

GROUP = "libvirt"

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "uri",
        default="qemu:///system",
        help="libvirt URI of this host's hypervisor. It must allow writing; it is logged without passwords.",
    ),
    cfg.IntOpt(
        "keepalive_interval",
        default=3,
        min=1,
        help="Seconds of silence after which libvirtd is asked for a sign of life.",
    ),
    cfg.IntOpt(
        "keepalive_count",
        default=3,
        min=1,
        help="Unanswered questions after which the connection is given up: a frozen libvirtd is noticed after "
        "keepalive_interval * (keepalive_count + 1) seconds, and every call that waits for it ends then.",
    ),
    cfg.FloatOpt(
        "call_bound",
        default=35.0,
        min=1.0,
        help="Seconds after which the outcome of a begun call is unknown. Must be longer than it takes to notice a frozen libvirtd. "
        "Above 30, because libvirt waits 30 s for a server that is busy with something else (a migration, say) and then "
        "says for certain that nothing was sent.",
    ),
    cfg.FloatOpt(
        "detach_timeout",
        default=12.0,
        min=1.0,
        help="Seconds that a guest has to let go of its watchdog when that is taken away or replaced while it runs; must be less than "
        "call_bound. libvirt itself waits 5 of them. A guest that hangs never does, and keeps its watchdog.",
    ),
    cfg.StrOpt(
        "auto_dump_path",
        default="/var/lib/libvirt/qemu/dump",
        help="Where libvirtd writes the dump of a server whose watchdog fires with the expiry action dump: the same as auto_dump_path in "
        "its qemu.conf. The agent must be allowed to list it. Without meaning for a libvirtd on another host.",
    ),
    cfg.BoolOpt(
        "count_disk_errors",
        default=True,
        help="Ask QEMU itself how many requests of each disk have failed when diagnostics are collected (not when servers are sampled). "
        "libvirt does not count them, and marks a domain whose QEMU was asked past it as tainted (custom-monitor) until its next start; "
        "that changes nothing else. When false, errors_count is null.",
    ),
]


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register the group on ``conf``; may be called more than once."""
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For the generated configuration reference."""
    return [(GROUP, OPTIONS)]
