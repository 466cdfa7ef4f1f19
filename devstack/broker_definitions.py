"""What crashcart wants of its broker: one user, one vhost, and the policies on its queues."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

VHOST = "/"
# An action's deadline lies at most this far ahead, so a cast that waited longer in the broker is of no use.
MAX_DEADLINE_MS = 3_600_000
AGENT_QUEUE_LENGTH = 10_000


def list_policies() -> list[dict[str, Any]]:
    """The shipped policies, also what an operator applies to a broker of theirs (see doc/operations.rst)."""
    return [
        {
            # An agent that is away for long must not fill the broker: what is dropped here is sent again by the
            # dispatcher as long as its deadline allows.
            "vhost": VHOST,
            "name": "crashcart-agents",
            "pattern": r"^compute_agent(\.|_fanout|$)",
            "apply-to": "queues",
            "priority": 10,
            "definition": {
                "message-ttl": MAX_DEADLINE_MS,
                "max-length": AGENT_QUEUE_LENGTH,
                "overflow": "drop-head",
            },
        },
    ]


def write_definitions(path: Path, user: str, password: str) -> None:
    """Write the file that the node loads at boot; it holds the password's hash, not the password."""
    definitions = {
        "users": [{"name": user, "password_hash": _hash_password(password), "tags": "administrator"}],
        "vhosts": [{"name": VHOST}],
        "permissions": [{"user": user, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}],
        "policies": list_policies(),
    }
    path.write_text(json.dumps(definitions, indent=2))
    path.chmod(0o600)


def _hash_password(password: str) -> str:
    """RabbitMQ's rabbit_password_hashing_sha256: four bytes of salt before the digest of salt and password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
