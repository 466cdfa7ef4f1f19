"""HTTPS of the API: which certificate, looked at before a worker begins that could not say what is wrong with it."""

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg


class CertificateUnusable(ValueError):
    """The API cannot serve HTTPS with what it was given; the text says why."""


@dataclass(frozen=True)
class Certificate:
    """Files in PEM: the certificate with those between it and a root, and its private key."""

    certificates: Path
    private_key: Path


def find_certificate(conf: cfg.ConfigOpts) -> Certificate | None:
    """What ``[api]`` names; None: plain HTTP.

    :raises CertificateUnusable: one of the two is missing, unreadable, not the other's, or everybody may read the key.
    """
    names = conf.api.tls_cert_file, conf.api.tls_key_file
    if not any(names):
        return None
    if not all(names):
        raise CertificateUnusable("[api] tls_cert_file and tls_key_file: name both, or none for plain HTTP")
    found = Certificate(Path(names[0]), Path(names[1]))
    try:
        mode = stat.S_IMODE(found.private_key.stat().st_mode)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.certificates, found.private_key, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise CertificateUnusable(f"HTTPS with {found.certificates} and {found.private_key}: {error}") from error
    if mode & stat.S_IRWXO:
        raise CertificateUnusable(f"{found.private_key} is a private key and everybody may use it: chmod o= {found.private_key}")
    return found


def _refuse_password() -> str:
    """Else OpenSSL would ask at the terminal for the password of a key that has one."""
    raise ValueError("the key is encrypted: nobody is there to type its password")
