"""What ``crashcart-manage`` does, by the names that its command line gives it: loaded only when something is to be done."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oslo_config import cfg

from api_gateway.manage_broker import AccountsUnusable, print_definitions
from api_gateway.manage_upgrade_check import check_upgrade
from api_gateway.manage_versions import PinUnknown, show_versions
from api_gateway.store import Store, StoreError, actions, agents, counters, events, had, restoring
from api_gateway.store.agents import UP
from api_gateway.store.phases import Phase
from compute_agent.contract.clock import Clock, SystemClock
from compute_agent.contract.signing_keys import KeyUnusable, create_key_files

Outcome = str | tuple[str, int]
"""What is printed, and the exit status of a command that judges."""


class CheckImpossible(Exception):
    """What is to be judged could not be looked at; the text says why."""


class Refused(Exception):
    """The command would do harm or makes no sense; the text says why and what to do instead."""


def upgrade_database(store: Store, arguments: argparse.Namespace, _clock: Clock) -> str:
    """:raises OutOfOrder: the other one of the two steps comes first."""
    lines = [f"done: {migration}" for migration in store.upgrade_schema(arguments.phase and Phase(arguments.phase))]
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


COMMANDS: dict[str, Callable[[cfg.ConfigOpts, argparse.Namespace], Outcome]] = {
    "check_database": _over_store(check_database),
    "check_upgrade": _check_upgrade,
    "create_signing_key": create_signing_key,
    "forget_host": _over_store(forget_host),
    "mark_restored": _over_store(mark_restored),
    "print_definitions": print_definitions,
    "show_versions": _show_versions,
    "upgrade_database": _over_store(upgrade_database),
}
FAILURES = (StoreError, Refused, KeyUnusable, AccountsUnusable, PinUnknown, OSError)
"""What a command raises when it is refused or fails; the text says why."""
