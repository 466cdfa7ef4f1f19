"""``crashcart-manage``: what an operator does to the gateway's database, the making of keys and accounts, what upgrades need to know."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg
from oslo_log import log

from api_gateway.config import load_config
from compute_agent.contract.accounts import GATEWAY_ACCOUNT

EXIT_FAILED = 1
EXIT_IMPOSSIBLE = 255
"""Of ``upgrade-check``, whose 1 is a warning; the same as that of OpenStack's upgrade checks."""
_UPGRADE_CHECK = "upgrade-check"


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line, one noun and verb after the other; ``run`` names one of ``manage_commands.COMMANDS``."""
    database = subparsers.add_parser("db", help="the gateway's database").add_subparsers(dest="verb", required=True)
    upgrade = database.add_parser("upgrade", help="make the tables, or bring them to this release; safe to repeat")
    phase = upgrade.add_mutually_exclusive_group()
    phase.add_argument(
        "--expand",
        dest="phase",
        action="store_const",
        const="expand",
        help="only what adds, while engines and APIs of the release before run; says what is left to do",
    )
    phase.add_argument(
        "--contract",
        dest="phase",
        action="store_const",
        const="contract",
        help="only what removes or tightens, when none of them is left; without either option: both",
    )
    upgrade.set_defaults(run="upgrade_database")
    check = database.add_parser("check", help="exit 0 if the database can be used by this release")
    check.set_defaults(run="check_database")
    restored = database.add_parser("restored", help="after restoring a backup, before API and engine are started; safe to repeat")
    restored.set_defaults(run="mark_restored")

    host = subparsers.add_parser("host", help="machines that agents serve").add_subparsers(dest="verb", required=True)
    forget = host.add_parser("forget", help="remove a host that will not come back; its servers' histories stay")
    forget.add_argument("host", metavar="HOST")
    forget.add_argument("--force", action="store_true", help="even if its agent is up")
    forget.set_defaults(run="forget_host")

    key = subparsers.add_parser("create-signing-key", help="make a key that signs what agents are told")
    key.add_argument("directory", metavar="DIRECTORY", type=Path, help="where ISSUER.key and ISSUER.pem are written")
    key.add_argument("--issuer", help="whose key it is, as agents will know it; [signing] issuer if not given")
    key.set_defaults(run="create_signing_key")

    _add_broker_command(subparsers)

    shown = subparsers.add_parser("versions", help="which releases the agents run, what the pin comes to, and what holds it back")
    shown.set_defaults(run="show_versions")
    checked = subparsers.add_parser(
        _UPGRADE_CHECK,
        help="whether this release may run here",
        description="Looks at the database, the agents, the pin and the broker's queues. Exit status: 0 ready, 1 ready with warnings, 2 "
        "not ready, 255 when it could not look.",
    )
    checked.set_defaults(run="check_upgrade")
    for command in (shown, checked):
        command.add_argument("--json", action="store_true", help="print one JSON object")


def _add_broker_command(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    definitions = subparsers.add_parser(
        "broker-definitions",
        help="print accounts, permissions, policies and queues for rabbitmqctl import_definitions",
        description="Reads one account and its password a line, with a blank between them: agent.HOST for the agent of each host, "
        "consumer.NAME for each program of yours that hears events (its queues are named consumer.NAME or "
        "consumer.NAME.ANYTHING), controller.NAME for each that tells agents itself what to do; any other name is the gateway's "
        f"({GATEWAY_ACCOUNT}, usually). Prints hashes of the passwords only; safe "
        "to import again, and accounts that are not in the list stay as they are.",
    )
    definitions.add_argument("accounts", metavar="FILE", type=Path, help="the list, which only its owner may read; - for standard input")
    definitions.add_argument("--vhost", default="/", help="of transport_url (%(default)s)")
    definitions.set_defaults(run="print_definitions")


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
    from api_gateway import manage_commands  # here: whoever asks for --help waits for no store

    try:
        outcome = manage_commands.COMMANDS[conf.command.run](conf, conf.command)
        text, status = (outcome, 0) if isinstance(outcome, str) else outcome
        print(text)  # noqa: T201
    except manage_commands.FAILURES as error:
        print(f"crashcart-manage: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except manage_commands.CheckImpossible as error:
        print(f"crashcart-manage: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_IMPOSSIBLE
    return status
