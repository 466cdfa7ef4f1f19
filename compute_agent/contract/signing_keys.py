"""The files that keys of :mod:`compute_agent.contract.signing` are in: PEM, a private one for its owner only.

Public keys lie in a directory, each issuer's in a file ``ISSUER.pem``; while a key is being exchanged, the old and the new one stand in it
one after the other.
"""

import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compute_agent.contract.signing import TrustedKeys

_SUFFIX = ".pem"
_ISSUER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)


class KeyUnusable(ValueError):
    """A key, its file or its issuer's name cannot be used; the text says which and what to do."""


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """:raises KeyUnusable: there is none, it is another kind of key, or others than its owner may read it."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise KeyUnusable(f"the private key {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUnusable(f"the private key {path} can be reached by others than its owner: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"{path} holds no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"the private key {path} is none of Ed25519: make one with crashcart-manage create-signing-key")
    return key


def read_trusted_keys(directory: Path) -> TrustedKeys:
    """Every issuer of a directory with its keys.

    :raises KeyUnusable: it cannot be read, everybody may write to it, a file holds something else, or there is no key at all.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == _SUFFIX)
        keys = {check_issuer(path.stem): _read_public_keys(path) for path in paths}
        open_to_all = [path for path in (directory, *paths) if path.stat().st_mode & stat.S_IWOTH]
    except OSError as error:
        raise KeyUnusable(f"the trusted keys in {directory} cannot be read: {error.strerror}: {error.filename}") from error
    if open_to_all:
        raise KeyUnusable(f"everybody may write to {open_to_all[0]}, and so say whom this host obeys: chmod o-w {open_to_all[0]}")
    if not keys:
        raise KeyUnusable(f"there is no trusted key ISSUER{_SUFFIX} in {directory}: no cast could be taken in")
    return keys


def create_key_files(directory: Path, issuer: str) -> tuple[Path, Path]:
    """Make a new key: ``ISSUER.key``, the private one, for its owner only, and ``ISSUER.pem``, the public one.

    :returns: both paths, the private one first
    :raises KeyUnusable: the name does not do, or one of the files is there already, which is never overwritten.
    :raises OSError: the directory cannot be written to.
    """
    check_issuer(issuer)
    private_path, public_path = directory / f"{issuer}.key", directory / f"{issuer}{_SUFFIX}"
    for path in (private_path, public_path):
        if path.exists():
            raise KeyUnusable(f"{path} exists already; a key is never overwritten")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write_new(private_path, private, 0o600)
    _write_new(public_path, public, 0o644)
    return private_path, public_path


def check_issuer(name: str) -> str:
    """The name itself.

    :raises KeyUnusable: it does not do for a file's name.
    """
    if _ISSUER.fullmatch(name) is None:
        raise KeyUnusable(f"{name!r} is no name for an issuer: letters, digits, dots, underscores and hyphens, 64 at most")
    return name


def _read_public_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    content = path.read_bytes()
    try:
        keys = [serialization.load_pem_public_key(block) for block in _PUBLIC_KEY.findall(content)]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"{path} holds a public key that cannot be read") from error
    good = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
    if not good or len(good) != len(keys) or _PUBLIC_KEY.sub(b"", content).strip():
        raise KeyUnusable(f"{path} holds something else than public keys of Ed25519 in PEM")
    return good


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
