"""What a gateway needs before it lets anybody in: said at start, in a sentence; and what its log says of who asked."""

import logging
import sys
from pathlib import Path

import pytest
from oslo_log.formatters import ContextFormatter

from api_gateway import wsgi
from api_gateway.config import load_config
from tests.databases import write_database
from tests.http.application import create_application
from tests.unit.gateway.auth_parts import ROLES, build_login, create_basic_application, write_user_file


def start(directory: Path, options: str) -> int:
    """``crashcart-api`` with a good store up to the moment at which it would listen."""
    write_database(directory / "gateway.sqlite")
    path = directory / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{directory / 'gateway.sqlite'}\n{options}")
    return wsgi.main(["--config-file", str(path)])


def test_a_missing_user_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(tmp_path, f"[api]\nauth_strategy = http_basic\nhttp_basic_auth_user_file = {tmp_path}/users\n") == 1
    assert f"crashcart-api: cannot read {tmp_path}/users: " in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "api_gateway.auth.keystone", raising=False)
    monkeypatch.setitem(sys.modules, "keystonemiddleware", None)
    assert start(tmp_path, "[api]\nauth_strategy = keystone\n") == 1
    assert "crashcart-api: [api] auth_strategy keystone needs the extra 'keystone' (pip install" in capsys.readouterr().err


def test_a_broken_policy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.yaml").write_text("- no mapping\n")
    assert start(tmp_path, "") == 1
    assert f"crashcart-api: {tmp_path}/policy.yaml is not a policy file" in capsys.readouterr().err


def test_with_passwords_other_addresses_than_loopback_may_be_listened_on(tmp_path: Path) -> None:
    write_database(tmp_path / "gateway.sqlite")
    write_user_file(tmp_path / "htpasswd")
    (tmp_path / "roles.yaml").write_text(ROLES)
    conf = load_config([], config_files=[])
    conf.set_override("connection", f"sqlite:///{tmp_path / 'gateway.sqlite'}", group="database")
    for name, value in {
        "auth_strategy": "http_basic",
        "http_basic_auth_user_file": str(tmp_path / "htpasswd"),
        "http_basic_roles_file": str(tmp_path / "roles.yaml"),
        "listen_host": "0.0.0.0",
        "listen_port": 0,
    }.items():
        conf.set_override(name, value, group="api")
    assert wsgi.check_startable(conf) == "0.0.0.0"


class Lines(logging.Handler):
    """The log as oslo.log would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(ContextFormatter(config=load_config([], config_files=[])))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def test_a_log_line_names_request_user_and_project_and_no_earlier_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = create_basic_application(tmp_path)
    log, lines = logging.getLogger("api_gateway.faults"), Lines()
    monkeypatch.setattr(application.store, "read", lambda: 1 / 0)
    log.addHandler(lines)
    try:
        global_id = "req-00000000-0000-4000-8000-0000000000aa"
        failed = application.client.simulate_get("/v2.1/servers", headers={**build_login("alice"), "X-OpenStack-Request-ID": global_id})
        application.client.simulate_get("/healthcheck")
    finally:
        log.removeHandler(lines)
    assert failed.status_code == 500
    assert f"[{global_id} {failed.headers['x-openstack-request-id']} alice demo" in lines.lines[0]
    assert not any("alice" in line.splitlines()[0] for line in lines.lines[1:])
    application.close()


@pytest.mark.parametrize("value", ["admin\r\nX-Injected: yes", "admin\n", "a" * 256, "ad\0min", "\u00e4dmin"])
def test_no_identity_header_carries_anything_but_a_short_printable_name(tmp_path: Path, value: str) -> None:
    application = create_application(tmp_path)
    for name in ("X-User-Id", "X-Project-Id", "X-Roles"):
        environ = {f"HTTP_{name.upper().replace('-', '_')}": value}
        answer = application.client.simulate_get("/v2.1/servers", extras=environ)
        assert answer.status_code == 400
        assert "X-Injected" not in answer.headers
    application.close()
