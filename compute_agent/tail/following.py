"""``crashcart-notifications tail``: what happens, as it is published; one line an event, and one a gap."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase

from oslo_config import cfg
from oslo_log import log

from compute_agent.consumer.follower import Disbelieved, Follower, QueueRefused, Unreadable, create_follower
from compute_agent.consumer.ordering import Event, Gap, Ordering, Told
from compute_agent.consumer.senders import Senders
from compute_agent.contract.accounts import GATEWAY_ACCOUNT
from compute_agent.contract.broker import find_tls
from compute_agent.contract.notifications import Notification
from compute_agent.contract.topics import Severity
from compute_agent.contract.transport import register_messaging_options
from compute_agent.tail.command_line import EXIT_FAILED, EXIT_TIMED_OUT, PROGRAM, load_config
from compute_agent.tail.sentences import describe_event, describe_gap, make_printable

_RANKS = {str(severity): rank for rank, severity in enumerate(Severity)}


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


def main(argv: Sequence[str] | None = None) -> int:
    """:returns: the exit status, see the epilog of ``tail --help``."""
    try:
        conf = load_config(argv, register=register_messaging_options)
        log.setup(conf, "crashcart")
        status = tail(conf, conf.command)
    except (cfg.Error, QueueRefused, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)  # noqa: T201 -- the operator's terminal
        return EXIT_FAILED
    return status
