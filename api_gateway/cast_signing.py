"""The key with which this gateway signs what it tells agents."""

from pathlib import Path

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.contract.signing import CastSigner


def create_signer(conf: cfg.ConfigOpts, clock: Clock) -> CastSigner | None:
    """As ``[signing]`` says; None: nothing is signed.

    :raises KeyUnusable: the key or the issuer's name cannot be used; the text says what to do.
    """
    if not conf.signing.private_key:
        return None
    # Here: what reads key files loads bcrypt, which a gateway without a key and without passwords has no use for.
    from compute_agent.contract.signing_keys import check_issuer, read_private_key

    return CastSigner(check_issuer(conf.signing.issuer), read_private_key(Path(conf.signing.private_key)), clock)
