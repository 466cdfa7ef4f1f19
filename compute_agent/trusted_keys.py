"""Whom this host obeys: the verifier over the directory of ``[signing] trusted_keys``, read at the start and at SIGHUP."""

import logging
from datetime import timedelta
from pathlib import Path

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.contract.signing import CastVerifier, TrustedKeys
from compute_agent.contract.signing_keys import KeyUnusable, read_trusted_keys

LOG = logging.getLogger(__name__)

_CAST_MAX_AGE = timedelta(hours=1)
"""At least: the longest deadline of an action. A journal that keeps nothing must not mean that nobody is obeyed; what has left it is past
its deadline, which is signed."""


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


def find_trusted_keys(conf: cfg.ConfigOpts, clock: Clock) -> TrustedKeyFiles | None:
    """As ``[signing]`` says; None, with a warning: whoever reaches this host's queue is obeyed.

    :raises KeyUnusable: as above.
    """
    if not conf.signing.trusted_keys:
        LOG.warning("[signing] trusted_keys is not set: casts need no signature, whoever can publish to this host's queue is obeyed")
        return None
    cast_max_age = max(timedelta(seconds=conf.agent.action_keep), _CAST_MAX_AGE)
    return TrustedKeyFiles(Path(conf.signing.trusted_keys), conf.host, clock, cast_max_age=cast_max_age)
