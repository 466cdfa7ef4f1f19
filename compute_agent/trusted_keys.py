"""Whom this host obeys: the verifier over a directory of public keys, read at the start and at SIGHUP."""

import logging
from datetime import timedelta
from pathlib import Path

from compute_agent.contract.clock import Clock
from compute_agent.contract.signing import CastVerifier, TrustedKeys
from compute_agent.contract.signing_keys import KeyUnusable, read_trusted_keys

LOG = logging.getLogger(__name__)


class TrustedKeyFiles:
    """A directory of public keys and what verifies with them.

    :raises KeyUnusable: it cannot be used; the text says why.
    """

    def __init__(self, directory: Path, host: str, clock: Clock, *, cast_max_age: timedelta) -> None:
        self._directory = directory
        keys = read_trusted_keys(directory)
        self.verifier = CastVerifier(keys, host, clock, cast_max_age=cast_max_age)
        self._log(keys)

    def reload(self) -> None:
        """Read them again. If they cannot be used, those that were read before stay in force: a slip must not lock everybody out."""
        try:
            keys = read_trusted_keys(self._directory)
        except KeyUnusable as error:
            LOG.error("SIGHUP: the trusted keys stay as they were read before: %s", error)
            return
        self.verifier.trust(keys)
        self._log(keys)

    def _log(self, keys: TrustedKeys) -> None:
        LOG.info("casts are taken in from: %s", ", ".join(f"{issuer} ({len(its_keys)} keys)" for issuer, its_keys in keys.items()))
