"""Whom to trust when a BMC says who it is."""

import ssl
import threading
from pathlib import Path


class TrustStores:
    """TLS settings by what a target asks for, each made once: the authorities of a whole system take a megabyte."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[tuple[bool, str | None], ssl.SSLContext] = {}

    def get_context(self, verify: bool, ca_file: Path | None) -> ssl.SSLContext:
        """Trusts ``ca_file`` alone where there is one, else what this host trusts; without ``verify`` anybody.

        :raises ValueError: the file cannot be read or holds no certificate.
        """
        authorities = _read(ca_file) if verify and ca_file is not None else None
        with self._lock:
            key = (verify, authorities)
            if key not in self._contexts:
                self._contexts[key] = _make_context(verify, authorities, ca_file)
            return self._contexts[key]


def _read(ca_file: Path) -> str:
    try:
        return ca_file.read_text("ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"the CA file {ca_file} cannot be read: {error.strerror}") from error


def _make_context(verify: bool, authorities: str | None, ca_file: Path | None) -> ssl.SSLContext:
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        # An empty file must not stand for "whom this host trusts".
        context = ssl.create_default_context(cadata=None if authorities is None else authorities or "\n")
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"the CA file {ca_file} holds no certificate that can be used: {error}") from error
    # A BMC's own certificate may be what is trusted, and those seldom have every extension that newer Pythons insist on.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
