"""Secrets planted where the gateway keeps them are in nothing that it says when something goes wrong."""

import logging
from pathlib import Path

import pytest

from api_gateway.engine import main
from api_gateway.store import Store, StoreError
from tests.fakes import FakeClock
from tests.forks import run_in_fork
from tests.unit.gateway.subscription_parts import subscribe

CANARY = "canary-in-the-mine"


def test_a_webhooks_secret_is_in_no_error_of_the_store(store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    subscribe(store, clock, secret=CANARY)
    with pytest.raises(StoreError) as refused:
        subscribe(store, clock, secret=CANARY)  # the same id again
    logging.getLogger("test").error("refused", exc_info=refused.value)
    assert "IntegrityError" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "connection",
    [
        f"postgresql+psycopg://gateway:{CANARY}@127.0.0.1:1/crashcart",
        f"postgresql+psycopg://gateway:{CANARY}@127.0.0.1:1/crashcart?connect_timeout=1&sslmode=nonsense",
        f"sqlite://gateway:{CANARY}@/crashcart",
        f"nonsense://gateway:{CANARY}@127.0.0.1/crashcart",
        f"postgresql+psycopg//gateway:{CANARY}@127.0.0.1/crashcart",
    ],
)
def test_the_databases_password_is_in_nothing_that_a_start_says(tmp_path: Path, connection: str, capfd: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "gateway.conf"
    conf.write_text(f"[DEFAULT]\ndebug = true\ntransport_url = rabbit://u:{CANARY}@127.0.0.1:1/\n[database]\nconnection = {connection}\n")
    code = run_in_fork(lambda: exit(main(["--config-file", str(conf)])))
    told = capfd.readouterr()
    assert code != 0, told.err
    assert told.err
    assert CANARY not in told.out + told.err
