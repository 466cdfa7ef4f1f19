"""What the private broker loads at boot: crashcart's own definitions, and an account for tests that may do everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from compute_agent.contract.accounts import GATEWAY_ACCOUNT, hash_password
from compute_agent.contract.broker_definitions import build_definitions

VHOST = "/"
_LATER = ("exchanges", "queues", "bindings")
"""Left to the gateway, which declares them at its start: a quorum queue that a node has before the others of its cluster join it would
have a single copy for ever."""


def write_definitions(path: Path, user: str, password: str, *, gateway_password: str, agent_passwords: Mapping[str, str]) -> None:
    """Write the file that the node loads at boot; it holds the passwords' hashes, not the passwords.

    :param user: the account that may do everything
    :param agent_passwords: by host
    """
    definitions = build_definitions({GATEWAY_ACCOUNT: gateway_password}, agent_passwords, vhost=VHOST)
    for section in _LATER:
        del definitions[section]
    definitions["users"].append({"name": user, "password_hash": hash_password(password), "tags": "administrator"})
    definitions["permissions"].append({"user": user, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"})
    path.write_text(json.dumps(definitions, indent=2))
    path.chmod(0o600)
