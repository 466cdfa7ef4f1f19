"""The gateway's key: without one nothing is signed, and one that cannot be used keeps each process from starting."""

from pathlib import Path

import pytest

from api_gateway.agent_calls import create_agent_calls
from api_gateway.cast_signing import create_signer
from api_gateway.config import load_config
from api_gateway.wsgi import check_startable
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.signing import CONTEXT_KEY
from compute_agent.contract.signing_keys import KeyUnusable, create_key_files


def write_config(folder: Path, signing: str) -> list[str]:
    path = folder / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{folder}/gateway.sqlite\n[signing]\n{signing}\n")
    return ["--config-file", str(path)]


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    assert create_signer(load_config(write_config(tmp_path, "")), SystemClock()) is None


def test_what_is_told_to_agents_is_signed_with_the_key_under_the_issuers_name(tmp_path: Path) -> None:
    private, _ = create_key_files(tmp_path, "north")
    signer = create_signer(load_config(write_config(tmp_path, f"private_key = {private}\nissuer = north")), SystemClock())
    assert signer is not None
    assert signer.sign("h", "ping", {})[CONTEXT_KEY]["issuer"] == "north"


def test_a_key_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    private, _ = create_key_files(tmp_path, "north")
    private.chmod(0o644)
    conf = load_config(write_config(tmp_path, f"private_key = {private}"))
    for start in (check_startable, lambda conf: create_agent_calls(conf, None, SystemClock())):
        with pytest.raises(KeyUnusable, match="chmod 600"):
            start(conf)
    private.chmod(0o600)
    with pytest.raises(KeyUnusable, match="no name for an issuer"):
        create_signer(load_config(write_config(tmp_path, f"private_key = {private}\nissuer = a/b")), SystemClock())
