"""The key with which a stack's gateway signs what its agents are told, and the options that name it on both sides."""

from __future__ import annotations

from pathlib import Path

from compute_agent.contract.signing_keys import create_key_files
from devstack.stack_config import Options

ISSUER = "devstack"


def make_signing_options(directory: Path) -> tuple[Options, Options]:
    """The agents' options and the gateways'; the key is made when there is none yet, and stays."""
    private_key, trusted_keys = directory / f"{ISSUER}.key", directory / "trusted"
    if not private_key.exists():
        trusted_keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        _, public_key = create_key_files(directory, ISSUER)
        public_key.rename(trusted_keys / public_key.name)
    return {"signing": {"trusted_keys": trusted_keys}}, {"signing": {"private_key": private_key, "issuer": ISSUER}}
