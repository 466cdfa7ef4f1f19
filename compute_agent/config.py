"""The agent's options (oslo.config), registered on a ``ConfigOpts`` that is handed in.

``transport_url`` and ``[oslo_messaging_rabbit]`` are oslo.messaging's own. Each driver registers its own group when it is loaded.
"""

import os
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from oslo_config import cfg
from oslo_log import log

from compute_agent.contract import versions

DEFAULT_CONFIG_FILE = "/etc/crashcart/agent.conf"
DRIVER_OPTIONS = "crashcart.driver_options"
"""Entry points under which installed drivers name their options (``list_opts``), without being loaded themselves."""

DEFAULT_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<the machine's host name>",
        regex="^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?$",
        help="The name under which this agent serves its host; part of its queue's name. A second agent of one name refuses to start.",
    ),
]

AGENT_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt("driver", default="libvirt", help="Driver to use; one of the installed entry points of crashcart.drivers."),
    cfg.StrOpt(
        "state_path",
        default="/var/lib/crashcart",
        help="Directory of the journal, on a local disk. Whoever deletes it turns open actions into unknown ones.",
    ),
    cfg.StrOpt("default_project", default="demo", help="Project of servers whose metadata name none."),
    cfg.FloatOpt("heartbeat_interval", default=30.0, min=0.1, help="Seconds between heartbeats; they are also sent at changes."),
    cfg.FloatOpt("inventory_interval", default=600.0, min=0.1, help="Seconds after which a heartbeat carries all servers again."),
    cfg.FloatOpt(
        "crash_dump_holdoff",
        default=600.0,
        min=0.0,
        help="Seconds after a crash dump signal in which further ones of that server are refused, unless it rebooted or stopped; a second "
        "NMI can ruin the dump that is being written. Time in which it was paused does not count. 0 turns it off.",
    ),
    cfg.FloatOpt(
        "max_clock_skew",
        default=2.0,
        min=0.0,
        help="Seconds that a request may come from this host's future; beyond that its deadline cannot be trusted and it is refused.",
    ),
    cfg.FloatOpt("first_look", default=60.0, min=0.0, help="Seconds of silence after a signal until nothing_seen_yet is reported."),
    cfg.FloatOpt("observation_limit", default=1800.0, min=0.0, help="Seconds after a signal until its observation gets its last word."),
    cfg.FloatOpt("outbox_keep", default=86_400.0, min=0.0, help="Seconds that sent events are kept, to be sent again when asked for."),
    cfg.IntOpt("outbox_max_rows", default=100_000, min=1, help="Sent events kept at most."),
    cfg.FloatOpt("action_keep", default=604_800.0, min=0.0, help="Seconds that ended actions are kept after their deadline."),
    cfg.FloatOpt(
        "sample_interval",
        default=30.0,
        min=0.0,
        help="Seconds between two samples of all running servers' diagnostics: utilisation and rates are worked out from them, the last "
        "one is the answer while the hypervisor hangs, and 20 of each server are kept as its history. 0 turns sampling off.",
    ),
    cfg.FloatOpt(
        "diagnostics_limit",
        default=2.0,
        min=0.01,
        help="Seconds that a fresh collection of diagnostics may take; after that the last sample is the answer, with its age.",
    ),
    cfg.IntOpt(
        "diagnostics_threads",
        default=4,
        min=1,
        help="Collections of diagnostics at the same time at most; those that a hypervisor which hangs keeps count as well.",
    ),
    cfg.IntOpt(
        "workers",
        default=8,
        min=1,
        help="Actions that run at the same time, each on another server. At most half of them change watchdogs, which waits for guests.",
    ),
]

HOST_DUMP_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "directory",
        default="",
        help="Directory for files with servers' memory that the hypervisor writes (take_host_dump), of this agent's own and on a disk with "
        "room for them. What is in them belongs to the servers' owners. Empty: host dumps are off.",
    ),
    cfg.IntOpt(
        "quota_mib",
        default=51_200,
        min=0,
        help="MiB of dumps at most; one that may not fit, counted as large as the server's memory, fails. Nothing is removed to make room. "
        "0: as many as the disk takes.",
    ),
    cfg.IntOpt("min_free_mib", default=2048, min=0, help="MiB of the disk that stay free, with the server's whole memory written."),
    cfg.BoolOpt(
        "after_panic",
        default=False,
        help="Take one without being asked of each server that reports a panic (pvpanic) without a crash kernel and is preserved as it "
        "crashed (on_crash=preserve). A server's metadata may say otherwise (host_dump_after_panic: yes or no).",
    ),
    cfg.FloatOpt(
        "limit",
        default=3600.0,
        min=0.0,
        help="Seconds past its deadline after which an action whose dump is still being written ends as unknown.",
    ),
]

BLACK_BOX_OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "quota_mib",
        default=256,
        min=0,
        help="MiB that black boxes of crashed servers take at most under state_path; the oldest make room for new ones. 0: none are kept.",
    ),
    cfg.IntOpt(
        "console_tail_kib",
        default=0,
        min=0,
        max=1024,
        help="KiB of the end of a crashed server's serial console log that are kept with its black box. It is the owner's: 0, none, "
        "unless you may.",
    ),
]

WATCHDOG_OPTIONS: list[cfg.Opt] = [
    cfg.BoolOpt(
        "reapply",
        default=False,
        help="Set a server's watchdog again when another tool changed or removed one that was set through crashcart (or added one where it "
        "was removed). server.watchdog.drifted tells of each such change in any case, and names the action that undoes it.",
    ),
]

SIGNING_OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "trusted_keys",
        default="",
        help="Directory with the public keys of those who may tell this host what to do: a file ISSUER.pem for each gateway, made by "
        "crashcart-manage create-signing-key; read again at SIGHUP. What is not signed by one of them, for this host, is refused then, "
        "and so is what comes twice or is older than [agent] action_keep (an hour at least; calls: a minute). Empty: whoever reaches this "
        "host's queue is obeyed.",
    ),
]

_GROUPS: dict[str, list[cfg.Opt]] = {
    "agent": AGENT_OPTIONS,
    "host_dump": HOST_DUMP_OPTIONS,
    "black_box": BLACK_BOX_OPTIONS,
    "watchdog": WATCHDOG_OPTIONS,
    "signing": SIGNING_OPTIONS,
}


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """For oslo.config's generators: the configuration reference is made from this. The drivers' own groups come last, by name."""
    drivers = sorted(entry_points(group=DRIVER_OPTIONS), key=lambda entry: entry.name)
    return [(None, DEFAULT_OPTIONS), *_GROUPS.items(), *(group for entry in drivers for group in entry.load()())]


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register the agent's and oslo.messaging's options on ``conf``; may be called more than once."""
    _register_own_options(conf)
    _register_messaging_options(conf)


def _register_own_options(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(DEFAULT_OPTIONS)
    for group, options in _GROUPS.items():
        conf.register_opts(options, group=group)


def _register_messaging_options(conf: cfg.ConfigOpts) -> None:
    from compute_agent.contract.transport import register_messaging_options  # here: whoever asks for --help waits for none of it

    register_messaging_options(conf)


def load_config(argv: Sequence[str] | None = None, *, config_files: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """A ``ConfigOpts`` of its own, read from files, environment (``OS_GROUP__OPTION``) and ``argv``.

    :param argv: arguments without the program's name; None for this process's own
    :param config_files: read when ``argv`` names none; None for ``/etc/crashcart/agent.conf`` where that exists
    :raises cfg.Error: a file is missing or a value does not fit.
    """
    conf = cfg.ConfigOpts()
    _register_own_options(conf)
    log.register_options(conf)
    if config_files is None:
        config_files = [DEFAULT_CONFIG_FILE] if os.path.exists(DEFAULT_CONFIG_FILE) else []
    conf(
        list(sys.argv[1:] if argv is None else argv),
        project="crashcart",
        prog="crashcart-agent",
        version=versions.RELEASE,
        description="Serves the servers of one host: takes actions from the broker, drives the hypervisor or BMC, reports what happened.",
        default_config_files=list(config_files),
    )
    _register_messaging_options(conf)
    return conf
