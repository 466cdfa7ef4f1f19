"""Files of keys: who may read them, what is refused in them, and that a slip at a reload locks nobody out."""

import logging
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from compute_agent.cast_gate import find_trusted_keys
from compute_agent.config import load_config
from compute_agent.contract.signing import CastRefused, CastSigner
from compute_agent.contract.signing_keys import KeyUnusable, create_key_files, read_private_key, read_trusted_keys
from compute_agent.trusted_keys import TrustedKeyFiles
from tests.fakes import FakeClock

HOST = "host-1"


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    return create_key_files(tmp_path, "gateway")


def test_a_new_key_is_a_pair_of_which_the_private_one_is_for_its_owner_only(made: tuple[Path, Path]) -> None:
    private, public = made
    assert (private.name, stat.S_IMODE(private.stat().st_mode)) == ("gateway.key", 0o600)
    (key,) = read_trusted_keys(public.parent)["gateway"]
    assert key.public_bytes_raw() == read_private_key(private).public_key().public_bytes_raw()


def test_a_key_is_never_overwritten(made: tuple[Path, Path]) -> None:
    before = made[0].read_bytes()
    with pytest.raises(KeyUnusable, match="exists already"):
        create_key_files(made[0].parent, "gateway")
    assert made[0].read_bytes() == before


@pytest.mark.parametrize("issuer", ["", "../gateway", "gate way", ".hidden", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, issuer: str) -> None:
    with pytest.raises(KeyUnusable, match="no name for an issuer"):
        create_key_files(tmp_path, issuer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_private_key_that_others_can_reach_is_refused_with_what_to_do(made: tuple[Path, Path], mode: int) -> None:
    made[0].chmod(mode)
    with pytest.raises(KeyUnusable, match=f"chmod 600 {made[0]}"):
        read_private_key(made[0])


def test_what_is_no_private_key_of_ed25519_is_refused(tmp_path: Path, made: tuple[Path, Path]) -> None:
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content, message in ((b"", "no private key"), (made[1].read_bytes(), "no private key"), (other, "none of Ed25519")):
        made[0].write_bytes(content)
        with pytest.raises(KeyUnusable, match=message):
            read_private_key(made[0])
    with pytest.raises(KeyUnusable, match="cannot be read"):
        read_private_key(tmp_path / "nowhere")


def test_every_issuer_of_the_directory_is_read_with_all_of_its_keys(tmp_path: Path) -> None:
    for folder, issuer in (("one", "gateway"), ("two", "gateway"), ("one", "second")):
        (tmp_path / folder).mkdir(exist_ok=True)
        create_key_files(tmp_path / folder, issuer)
    with (tmp_path / "one" / "gateway.pem").open("ab") as file:
        file.write((tmp_path / "two" / "gateway.pem").read_bytes())
    keys = read_trusted_keys(tmp_path / "one")
    assert {issuer: len(its_keys) for issuer, its_keys in keys.items()} == {"gateway": 2, "second": 1}


SLIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "there is none": (lambda public: public.unlink(), "no trusted key"),
    "it is empty": (lambda public: public.write_bytes(b""), "something else"),
    "it is cut short": (lambda public: public.write_bytes(public.read_bytes()[:-30]), "something else"),
    "it holds no key": (lambda public: public.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "cannot be read"),
    "it has words beside": (lambda public: public.write_bytes(public.read_bytes() + b"and more"), "something else"),
    "everybody may write to it": (lambda public: public.chmod(0o666), "chmod o-w"),
    "everybody may add to it": (lambda public: public.parent.chmod(0o777), "chmod o-w"),
    "its name is none": (lambda public: public.rename(public.with_name("a gateway.pem")), "no name for an issuer"),
    "it is a directory": (lambda public: (public.unlink(), public.mkdir()), "cannot be read"),
}


@pytest.mark.parametrize(("slip", "message"), SLIPS.values(), ids=SLIPS)
def test_a_slip_is_named_at_the_start_and_changes_nothing_at_a_reload(
    made: tuple[Path, Path], slip: Callable[[Path], object], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    signer = CastSigner("gateway", read_private_key(made[0]), clock)
    trusted = TrustedKeyFiles(made[1].parent, HOST, clock, cast_max_age=timedelta(hours=1))
    slip(made[1])
    with pytest.raises(KeyUnusable, match=message):
        TrustedKeyFiles(made[1].parent, HOST, clock, cast_max_age=timedelta(hours=1))
    trusted.reload()
    assert message in caplog.text
    assert "stay as they were" in caplog.text
    assert trusted.verifier.verify("ping", signer.sign(HOST, "ping", {}), {}) == "gateway"


def test_a_reload_takes_in_who_was_added_and_refuses_who_was_removed(made: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    directory = made[1].parent
    first = CastSigner("gateway", read_private_key(made[0]), clock)
    trusted = TrustedKeyFiles(directory, HOST, clock, cast_max_age=timedelta(hours=1))
    private, _ = create_key_files(directory, "second")
    second = CastSigner("second", read_private_key(private), clock)
    with pytest.raises(CastRefused, match="unknown_issuer"):
        trusted.verifier.verify("ping", second.sign(HOST, "ping", {}), {})
    made[1].unlink()
    with caplog.at_level(logging.INFO):
        trusted.reload()
    assert "casts are taken in from: second (1 keys)" in caplog.text
    assert trusted.verifier.verify("ping", second.sign(HOST, "ping", {}), {}) == "second"
    with pytest.raises(CastRefused, match="unknown_issuer"):
        trusted.verifier.verify("ping", first.sign(HOST, "ping", {}), {})


def test_an_agent_that_keeps_no_ended_actions_obeys_all_the_same(made: tuple[Path, Path], tmp_path: Path) -> None:
    """What is kept bounds how old a cast may be, and nothing is as young as nothing at all."""
    clock = FakeClock()
    path = tmp_path / "agent.conf"
    path.write_text(f"[DEFAULT]\nhost = {HOST}\n[agent]\naction_keep = 0\n[signing]\ntrusted_keys = {made[1].parent}\n")
    trusted = find_trusted_keys(load_config(["--config-file", str(path)]), clock)
    assert trusted is not None
    signer = CastSigner("gateway", read_private_key(made[0]), clock)
    first, second = (signer.sign(HOST, "resend_events", {}) for _ in range(2))
    clock.advance(3600)
    assert trusted.verifier.verify("resend_events", first, {}) == "gateway"
    clock.advance(1)
    with pytest.raises(CastRefused, match="too_old"):
        trusted.verifier.verify("resend_events", second, {})
