"""``crashcart-manage``: what an operator does to the gateway's database, the making of keys and accounts, what upgrades need to know."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from oslo_config import cfg
from oslo_log import log

from api_gateway.config import load_config
from api_gateway.manage_broker import AccountsUnusable, add_broker_command
from api_gateway.manage_upgrade_check import check_upgrade
from api_gateway.manage_versions import PinUnknown, show_versions
from api_gateway.store import Store, StoreError, actions, agents, counters, events, had, restoring
from api_gateway.store.agents import UP
from api_gateway.store.phases import Phase
from compute_agent.contract.clock import Clock, SystemClock
from compute_agent.contract.signing_keys import KeyUnusable, create_key_files

EXIT_FAILED = 1
EXIT_IMPOSSIBLE = 255
"""Of ``upgrade-check``, whose 1 is a warning; the same as that of OpenStack's upgrade checks."""
_UPGRADE_CHECK = "upgrade-check"


class CheckImpossible(Exception):
    """What is to be judged could not be looked at; the text says why."""


class Refused(Exception):
    """The command would do harm or makes no sense; the text says why and what to do instead."""


def upgrade_database(store: Store, arguments: argparse.Namespace, _clock: Clock) -> str:
    """:raises OutOfOrder: the other one of the two steps comes first."""
    lines = [f"done: {migration}" for migration in store.upgrade_schema(arguments.phase)]
    store.check_schema()
    lines.append(f"the database has the tables of this release (store {store.store_id})")
    left = store.list_pending_migrations()
    if left:
        lines.append("left for crashcart-manage db upgrade --contract, when no engine or API of the release before this one runs:")
        lines += [str(migration) for migration in left]
    return "\n".join(lines)


def check_database(store: Store, _arguments: argparse.Namespace, _clock: Clock) -> str:
    """Whether the database can be used, and what in it somebody should look at.

    :raises SchemaOutdated: it needs an upgrade.
    """
    store.check_schema()
    left = store.list_pending_migrations()
    with store.write() as c:
        lines = [
            f"the database can be read and written (store {store.store_id})",
            *(f"left for crashcart-manage db upgrade --contract: {migration}" for migration in left),
            f"actions that have not ended: {actions.count_open(c)}",
            f"messages that could not be recorded (table dead_letters): {events.count_shelved(c)}",
            f"messages that the full shelf (dead_letters) had no room for, so that they are lost: {events.count_refused(c, 0)}",
            f"events of hosts about servers that others own, shown to admins only: {counters.get_value(c, had.FOREIGN_EVENTS)}",
            *(f"must never happen, but did: {what}: {count}" for what, count in sorted(counters.list_violations(c).items())),
        ]
    return "\n".join(lines)


def mark_restored(store: Store, _arguments: argparse.Namespace, clock: Clock) -> str:
    store.check_schema()
    with store.write() as c:
        restored = restoring.mark_restored(c, now=clock.now())
    return (
        f"the database may be used: {restored.open_actions} open actions count as perhaps sent, "
        f"{restored.journals} agents will be asked for the events since the backup"
    )


def forget_host(store: Store, arguments: argparse.Namespace, clock: Clock) -> str:
    """:raises Refused: there is no such host, or its agent is up and ``--force`` was not given."""
    store.check_schema()
    with store.write() as c:
        agent = agents.find_agent(c, arguments.host)
        if agent is None:
            raise Refused(f"no agent of host {arguments.host} is known")
        if agent.state == UP and not arguments.force:
            raise Refused(
                f"the agent of host {agent.host} is up (heard {agent.received_at.isoformat(timespec='seconds')}) and its next heartbeat "
                "would bring it back: stop it first, or use --force"
            )
        deleted = agents.forget_host(c, agent.host, now=clock.now())
    return f"host {arguments.host} is forgotten, {deleted} servers that only it had are deleted; their histories stay"


def create_signing_key(conf: cfg.ConfigOpts, arguments: argparse.Namespace) -> str:
    """:raises KeyUnusable: there is such a key already, or the issuer's name does not do."""
    issuer = arguments.issuer or conf.signing.issuer
    private, public = create_key_files(arguments.directory, issuer)
    return (
        f"{private}: the private key, for its owner only; a gateway's: [signing] private_key, with issuer = {issuer}\n"
        f"{public}: the public key, for the directory [signing] trusted_keys of every agent, which reads it at SIGHUP; agents first"
    )


@contextmanager
def _open_store(conf: cfg.ConfigOpts) -> Iterator[Store]:
    store = Store(conf.database.connection, busy_timeout=conf.database.busy_timeout, pool_size=conf.database.pool_size)
    try:
        yield store
    finally:
        store.dispose()


def _over_store(command: Callable[[Store, argparse.Namespace, Clock], str]) -> Callable[[cfg.ConfigOpts, argparse.Namespace], str]:
    """A command that is given the store of the configuration, open while it runs."""

    def run(conf: cfg.ConfigOpts, arguments: argparse.Namespace) -> str:
        with _open_store(conf) as store:
            return command(store, arguments, SystemClock())

    return run


def _show_versions(conf: cfg.ConfigOpts, arguments: argparse.Namespace) -> str:
    with _open_store(conf) as store:
        return show_versions(conf, store, arguments)


def _check_upgrade(conf: cfg.ConfigOpts, arguments: argparse.Namespace) -> tuple[str, int]:
    """:raises CheckImpossible: the database cannot be used."""
    try:
        with _open_store(conf) as store:
            return check_upgrade(conf, store, arguments, SystemClock())
    except StoreError as error:
        raise CheckImpossible(str(error)) from error


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line, one noun and verb after the other."""
    database = subparsers.add_parser("db", help="the gateway's database").add_subparsers(dest="verb", required=True)
    upgrade = database.add_parser("upgrade", help="make the tables, or bring them to this release; safe to repeat")
    phase = upgrade.add_mutually_exclusive_group()
    phase.add_argument(
        "--expand",
        dest="phase",
        action="store_const",
        const=Phase.EXPAND,
        help="only what adds, while engines and APIs of the release before run; says what is left to do",
    )
    phase.add_argument(
        "--contract",
        dest="phase",
        action="store_const",
        const=Phase.CONTRACT,
        help="only what removes or tightens, when none of them is left; without either option: both",
    )
    upgrade.set_defaults(run=_over_store(upgrade_database))
    check = database.add_parser("check", help="exit 0 if the database can be used by this release")
    check.set_defaults(run=_over_store(check_database))
    restored = database.add_parser("restored", help="after restoring a backup, before API and engine are started; safe to repeat")
    restored.set_defaults(run=_over_store(mark_restored))

    host = subparsers.add_parser("host", help="machines that agents serve").add_subparsers(dest="verb", required=True)
    forget = host.add_parser("forget", help="remove a host that will not come back; its servers' histories stay")
    forget.add_argument("host", metavar="HOST")
    forget.add_argument("--force", action="store_true", help="even if its agent is up")
    forget.set_defaults(run=_over_store(forget_host))

    key = subparsers.add_parser("create-signing-key", help="make a key that signs what agents are told")
    key.add_argument("directory", metavar="DIRECTORY", type=Path, help="where ISSUER.key and ISSUER.pem are written")
    key.add_argument("--issuer", help="whose key it is, as agents will know it; [signing] issuer if not given")
    key.set_defaults(run=create_signing_key)

    add_broker_command(subparsers)

    shown = subparsers.add_parser("versions", help="which releases the agents run, what the pin comes to, and what holds it back")
    shown.set_defaults(run=_show_versions)
    checked = subparsers.add_parser(
        _UPGRADE_CHECK,
        help="whether this release may run here",
        description="Looks at the database, the agents, the pin and the broker's queues. Exit status: 0 ready, 1 ready with warnings, 2 "
        "not ready, 255 when it could not look.",
    )
    checked.set_defaults(run=_check_upgrade)
    for command in (shown, checked):
        command.add_argument("--json", action="store_true", help="print one JSON object")


def main(argv: Sequence[str] | None = None) -> int:
    """:returns: the exit status: 0 done, 1 refused or failed; 2 (from the parser) for a wrong command line. A command that judges has its
    own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = cfg.SubCommandOpt("command", title="commands", handler=add_commands, help="what to do; each has --help")
    try:
        conf = load_config(arguments, prog="crashcart-manage", cli_opts=[command])
    except cfg.Error as error:
        print(f"crashcart-manage: {error}", file=sys.stderr)  # noqa: T201 -- the operator's terminal
        return EXIT_IMPOSSIBLE if _UPGRADE_CHECK in arguments else EXIT_FAILED
    conf.set_default("use_stderr", True)  # what is printed may be a program's to read
    log.setup(conf, "crashcart")
    try:
        outcome: str | tuple[str, int] = conf.command.run(conf, conf.command)
        text, status = (outcome, 0) if isinstance(outcome, str) else outcome
        print(text)  # noqa: T201
    except (StoreError, Refused, KeyUnusable, AccountsUnusable, PinUnknown, OSError) as error:
        print(f"crashcart-manage: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except CheckImpossible as error:
        print(f"crashcart-manage: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_IMPOSSIBLE
    return status
