"""``crashcart-manage broker-definitions``: what an operator imports into RabbitMQ, out of a list of accounts and their passwords."""

import argparse
import json
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from oslo_config import cfg

from compute_agent.contract.accounts import AGENT_PREFIX
from compute_agent.contract.broker_definitions import build_definitions
from compute_agent.contract.topics import CONSUMER_PREFIX, CONTROLLER_PREFIX

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PROGRAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""Without a dot: the account's queues begin with the name and one."""


class AccountsUnusable(Exception):
    """The list of accounts is none, or others than its owner may read it; the text says where."""


@dataclass(frozen=True)
class _Accounts:
    """Names and passwords by role."""

    gateways: dict[str, str] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    consumers: dict[str, str] = field(default_factory=dict)
    controllers: dict[str, str] = field(default_factory=dict)

    def add(self, account: str, password: str) -> None:
        """:raises ValueError: it is there already, or is none; the text says so."""
        of_role, name = self.gateways, account
        if account.startswith(AGENT_PREFIX):
            of_role, name = self.agents, account.removeprefix(AGENT_PREFIX)
            if not name:
                raise ValueError("names no host")
        for prefix, programs in ((CONSUMER_PREFIX, self.consumers), (CONTROLLER_PREFIX, self.controllers)):
            if account.startswith(prefix):
                of_role, name = programs, account.removeprefix(prefix)
                if not _PROGRAM_NAME.fullmatch(name):
                    raise ValueError(f"is none: a {prefix[:-1]}'s name has letters, digits, _ and - only, 100 at most")
        if name in of_role:
            raise ValueError("is there twice")
        of_role[name] = password


def print_definitions(_conf: cfg.ConfigOpts, arguments: argparse.Namespace) -> str:
    """Definitions as JSON, with hashes in place of the passwords.

    :raises AccountsUnusable: see there.
    :raises OSError: the list cannot be read.
    """
    lines = sys.stdin if str(arguments.accounts) == "-" else _read_secretly(arguments.accounts)
    accounts = _Accounts()
    for number, account, password in _parse(lines):
        try:
            accounts.add(account, password)
        except ValueError as error:
            raise AccountsUnusable(f"line {number}: account {account!r} {error}") from error
    if accounts == _Accounts():
        raise AccountsUnusable("the list names no account")
    definitions = build_definitions(
        accounts.gateways, accounts.agents, accounts.consumers, controllers=accounts.controllers, vhost=arguments.vhost
    )
    return json.dumps(definitions, indent=2)


def _read_secretly(path: Path) -> list[str]:
    with path.open() as file:
        if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
            raise AccountsUnusable(f"{path} holds passwords and others than its owner may read it: chmod 0600 {path}")
        return file.read().splitlines()


def _parse(lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Number, account and password of each line; empty ones and comments are left out."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        account, _, password = line.strip().partition(" ")
        if not password.strip():
            raise AccountsUnusable(f"line {number}: account {account!r} has no password")
        yield number, account, password.strip()
