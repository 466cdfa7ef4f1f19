"""``crashcart-notifications tail``: what happens, as it is published; one line an event, and one a gap."""

import argparse
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase

from oslo_config import cfg
from oslo_log import log

from compute_agent.consumer.follower import Disbelieved, Follower, QueueRefused, Unreadable, create_follower
from compute_agent.consumer.ordering import Event, Gap, Ordering, Told
from compute_agent.consumer.senders import Senders
from compute_agent.consumer.sentences import describe_event, describe_gap, make_printable
from compute_agent.contract import versions
from compute_agent.contract.accounts import GATEWAY_ACCOUNT
from compute_agent.contract.broker import find_tls
from compute_agent.contract.notifications import Notification, Severity
from compute_agent.contract.transport import register_messaging_options

PROGRAM = "crashcart-notifications"
DEFAULT_CONFIG_FILE = "/etc/crashcart/consumer.conf"
EXIT_FAILED = 1
EXIT_TIMED_OUT = 3
_RANKS = {str(severity): rank for rank, severity in enumerate(Severity)}
_EPILOG = f"""\
The broker is the transport_url (and [oslo_messaging_rabbit] ssl_*) of --config-file or of {DEFAULT_CONFIG_FILE}; without a file
OS_DEFAULT__TRANSPORT_URL in the environment. It is no option because everybody on the machine sees a command line, and it has a password.

exit codes: 0 ended as told (--count, --timeout, SIGINT, SIGTERM, or nobody reads the output any more); {EXIT_FAILED} wrong configuration,
or the broker refuses the account or the queue; 2 wrong command line; {EXIT_TIMED_OUT} --timeout passed before there were --count events
"""


class Lines:
    """Writes what is told to standard output, as lines for people or as one JSON object each; says which events it showed."""

    def __init__(self, arguments: argparse.Namespace, write: Callable[[str], object]) -> None:
        self._arguments = arguments
        self._write = write

    def show(self, told: Told | Unreadable | Disbelieved) -> bool:
        """True when it was an event that was asked for."""
        if isinstance(told, Event):
            if not self._wants(told.notification):
                return False
            self._write(_to_json(told) if self._arguments.json else describe_event(told))
            return True
        if isinstance(told, Gap):
            if self._arguments.host in (None, told.host):
                self._write(_to_json(told) if self._arguments.json else describe_gap(told))
        else:
            what = "a message that cannot be read" if isinstance(told, Unreadable) else "an event that is not believed"
            self._write(_to_json(told) if self._arguments.json else make_printable(f"--- {what}: {told.reason}"))
        return False

    def _wants(self, notification: Notification) -> bool:
        wanted, payload = self._arguments, notification.payload
        return (
            (not wanted.type or any(fnmatchcase(notification.event_type, pattern) for pattern in wanted.type))
            and wanted.server in (None, payload.get("server"))
            and wanted.host in (None, payload.get("host"))
            # A word that this release does not know may be more severe than all that it knows.
            and _RANKS.get(notification.severity, len(_RANKS)) >= _RANKS[wanted.severity]
        )


def _to_json(told: Told | Unreadable | Disbelieved) -> str:
    if isinstance(told, Event):
        return json.dumps({"told": "event", "late": told.late, "sender": told.sender, **asdict(told.notification)})
    if isinstance(told, Gap):
        return json.dumps({"told": "gap", **asdict(told)})
    if isinstance(told, Disbelieved):
        return json.dumps({"told": "disbelieved", "reason": told.reason, "sender": told.sender, **asdict(told.notification)})
    return json.dumps({"told": "unreadable", "reason": told.reason, "body": told.body.decode(errors="replace")})


def tail(conf: cfg.ConfigOpts, arguments: argparse.Namespace) -> int:
    """Follow until told to end.

    :raises QueueRefused, ValueError: the broker does not want us, or the configuration names none.
    """
    follower = create_follower(
        conf.transport_url,
        arguments.queue,
        tls=find_tls(conf),
        ordering=Ordering(patience=arguments.patience),
        on_state=lambda sentence: print(f"{PROGRAM}: {make_printable(sentence)}", file=sys.stderr, flush=True),  # noqa: T201
        senders=Senders(arguments.gateway_account or [GATEWAY_ACCOUNT]) if arguments.verify else None,
    )
    lines = Lines(arguments, lambda line: print(line, flush=True))  # noqa: T201
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        follower.stop()

    timer = threading.Timer(arguments.timeout or 0.0, end)
    timer.daemon = True
    if arguments.timeout is not None:
        timer.start()
    shown = 0
    try:
        with _stopped_by_signals(follower):
            for told in follower.follow():
                if arguments.count is not None and shown >= arguments.count:
                    break
                shown += lines.show(told)
                if shown == arguments.count:
                    follower.stop()  # and on: what was shown is acknowledged when the next one is asked for
    except BrokenPipeError:
        # Nobody reads any more. What could not be shown stays in a kept queue; the interpreter must not try to flush it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        timer.cancel()
    return EXIT_TIMED_OUT if timed_out.is_set() and arguments.count is not None and shown < arguments.count else 0


@contextmanager
def _stopped_by_signals(follower: Follower) -> Iterator[None]:
    """The first signal ends it in order, a second one at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        follower.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    command.set_defaults(run=tail)


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


def load_config(argv: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """:raises cfg.Error: a file is missing or a value does not fit."""
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
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


def main(argv: Sequence[str] | None = None) -> int:
    """:returns: the exit status, see the epilog of ``tail --help``."""
    try:
        conf = load_config(argv)
        log.setup(conf, "crashcart")
        status: int = conf.command.run(conf, conf.command)
    except (cfg.Error, QueueRefused, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)  # noqa: T201 -- the operator's terminal
        return EXIT_FAILED
    return status
