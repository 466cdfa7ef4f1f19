"""Certificates for private parts, made anew at each call: a CA of their own and what it signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: who clients are to trust, the server's certificate, and its key, which only its owner may read."""

    ca: Path
    certificate: Path
    key: Path


def make_certificate(directory: Path, *names: str) -> TlsFiles:
    """A certificate for a server of these names and addresses, of a CA that has signed nothing else."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = TlsFiles(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    ca = trustme.CA()
    issued = ca.issue_cert(*names)
    ca.cert_pem.write_to_path(files.ca)
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    files.key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(files.key)
    return files
