"""The command line of ``crashcart-notifications``, and all that its ``--help`` says; what it runs is loaded when it runs."""

import argparse
import os
import sys
import threading
import uuid
from collections.abc import Callable, Sequence

from oslo_config import cfg
from oslo_log import log

from compute_agent.contract import versions
from compute_agent.contract.accounts import GATEWAY_ACCOUNT
from compute_agent.contract.topics import Severity

PROGRAM = "crashcart-notifications"
DEFAULT_CONFIG_FILE = "/etc/crashcart/consumer.conf"
EXIT_FAILED = 1
EXIT_TIMED_OUT = 3
_EPILOG = f"""\
The broker is the transport_url (and [oslo_messaging_rabbit] ssl_*) of --config-file or of {DEFAULT_CONFIG_FILE}; without a file
OS_DEFAULT__TRANSPORT_URL in the environment. It is no option because everybody on the machine sees a command line, and it has a password.

exit codes: 0 ended as told (--count, --timeout, SIGINT, SIGTERM, or nobody reads the output any more); {EXIT_FAILED} wrong configuration,
or the broker refuses the account or the queue; 2 wrong command line; {EXIT_TIMED_OUT} --timeout passed before there were --count events
"""


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line."""
    command = subparsers.add_parser(
        "tail",
        help="show events as they are published",
        description="Shows events as they are published, from a queue of its own: each once, in the order of its journal.\nAn event whose "
        "predecessor has not come is held back for a while; then the gap is shown as a line of its own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--type", action="append", metavar="PATTERN", help="of this type, which may have wildcards (quoted: 'action.*'); several times"
    )
    command.add_argument("--server", type=_read_id, metavar="ID", help="about this server, by its UUID")
    command.add_argument("--host", metavar="HOST", help="from or about this host")
    command.add_argument("--severity", choices=[str(severity) for severity in Severity], default="info", help="at least so severe")
    command.add_argument("--json", action="store_true", help='one JSON object a line: "told" is event, gap, unreadable or disbelieved')
    command.add_argument(
        "--verify",
        action="store_true",
        help="believe of a host only its own account at the broker, agent.HOST, and the gateway's; the rest is told as not believed",
    )
    command.add_argument(
        "--gateway-account",
        action="append",
        metavar="ACCOUNT",
        help=f"with --verify: an account of the gateway's; several times ({GATEWAY_ACCOUNT})",
    )
    command.add_argument(
        "--queue",
        metavar="NAME",
        help="a queue that is kept (100,000 events, a week), so that nothing is missed until the next run; a consumer's account has the "
        "names consumer.NAME and consumer.NAME.*. Without it a temporary one",
    )
    command.add_argument("--count", type=_read_count, metavar="N", help="end after so many events")
    command.add_argument("--timeout", type=_read_seconds, metavar="SECONDS", help="end after so long")
    command.add_argument(
        "--patience", type=_read_seconds, default=10.0, metavar="SECONDS", help="how long an event waits for an earlier one (%(default)g)"
    )


def _read_id(text: str) -> str:
    """As events have it; of a server's name nothing would ever be shown."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no server's UUID") from error


def _read_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of events")
    return int(text)


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds") from error
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait for")
    return seconds


def load_config(argv: Sequence[str] | None = None, *, register: Callable[[cfg.ConfigOpts], None] | None = None) -> cfg.ConfigOpts:
    """Read the command line, and the configuration of what ``register`` adds to it.

    :raises cfg.Error: a file is missing or a value does not fit.
    """
    conf = cfg.ConfigOpts()
    if register is not None:
        register(conf)
    log.register_options(conf)
    command = cfg.SubCommandOpt("command", title="commands", handler=add_commands, help="what to do; each has --help")
    conf.register_cli_opt(command)
    conf(
        list(sys.argv[1:] if argv is None else argv),
        project="crashcart",
        prog=PROGRAM,
        version=versions.RELEASE,
        description="Follows crashcart's events at the broker.",
        default_config_files=[DEFAULT_CONFIG_FILE] if os.path.exists(DEFAULT_CONFIG_FILE) else [],
    )
    return conf
