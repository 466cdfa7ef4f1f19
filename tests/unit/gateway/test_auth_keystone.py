"""Strategy keystone, the real middleware against a small Identity service: whose token lets whom in, and what is said when it is away."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon import testing
from oslo_config import cfg

pytest.importorskip("keystonemiddleware", reason="the extra keystone")

from api_gateway.auth.keystone import create_keystone
from api_gateway.auth.strategy import StrategyUnusable
from api_gateway.config import load_config
from api_gateway.wsgi import create_app
from compute_agent.contract.clock import SystemClock
from tests.http.application import Application, create_application
from tests.http.fleet import OTHERS, RUNNING
from tests.unit.gateway.small_keystone import SmallKeystone, build_token

SERVERS = "/v2.1/servers"
PUBLIC_URL = "https://keystone.example.org/v3"


def write_config(directory: Path, url: str, extra: str = "") -> cfg.ConfigOpts:
    path = directory / "gateway.conf"
    path.write_text(
        f"[api]\nauth_strategy = keystone\nthreads = 3\n[keystone_authtoken]\nauth_type = password\nauth_url = {url}\n"
        "username = crashcart\npassword = secret\nproject_name = service\nuser_domain_id = default\nproject_domain_id = default\n"
        f"http_connect_timeout = 60\nhttp_request_max_retries = 0\nwww_authenticate_uri = {PUBLIC_URL}\n{extra}"
    )
    return load_config(["--config-file", str(path)], prog="test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = create_application(tmp_path_factory.mktemp("store"))
    yield application
    application.close()


@pytest.fixture
def keystone() -> Iterator[SmallKeystone]:
    keystone = SmallKeystone()
    keystone.tokens = {
        "member-token": build_token("member", "reader"),
        "reader-token": build_token("reader"),
        "admin-token": build_token("admin", "member", "reader", project="admins"),
        "bare-token": build_token(),
        "unscoped-token": build_token(project=None),
        "domain-token": build_token("admin", project=None, domain={"id": "d-users", "name": "Users"}),
        "system-token": build_token("admin", project=None, system={"all": True}),
        "expired-token": build_token("admin", expires_at="2020-01-01T00:00:00.000000Z"),
    }
    yield keystone
    keystone.stop()


@pytest.fixture
def client(keystone: SmallKeystone, store: Application, tmp_path: Path) -> testing.TestClient:
    return create_client(store, write_config(tmp_path, keystone.url))


def create_client(store: Application, conf: cfg.ConfigOpts) -> testing.TestClient:
    return testing.TestClient(create_app(conf, store=store.store))


def get(client: testing.TestClient, token: str | None, path: str = SERVERS, **headers: str) -> Any:
    return client.simulate_get(path, headers={**({} if token is None else {"X-Auth-Token": token}), **headers})


def list_ids(answer: Any) -> set[str]:
    return {server["id"] for server in answer.json["servers"]}


def test_a_token_gives_the_user_project_and_roles_that_keystone_says(client: testing.TestClient, store: Application) -> None:
    answer = get(client, "member-token")
    assert answer.status_code == 200
    assert RUNNING in list_ids(answer)
    assert OTHERS not in list_ids(answer)
    dump = client.simulate_post(
        f"{SERVERS}/{RUNNING}/action",
        json={"trigger_crash_dump": None},
        headers={"X-Auth-Token": "reader-token", "OpenStack-API-Version": "compute 2.17"},
    )
    assert dump.status_code == 403
    assert get(client, "member-token", f"{SERVERS}/{OTHERS}").status_code == 404


def test_an_admin_of_another_project_is_an_admin(client: testing.TestClient) -> None:
    assert get(client, "admin-token", f"{SERVERS}/{RUNNING}").status_code == 200
    assert RUNNING not in list_ids(get(client, "admin-token"))
    assert {RUNNING, OTHERS} <= list_ids(get(client, "admin-token", f"{SERVERS}?all_tenants=1"))


def test_a_token_without_roles_is_known_and_may_nothing(client: testing.TestClient) -> None:
    assert get(client, "bare-token").status_code == 403


@pytest.mark.parametrize("token", ["unscoped-token", "domain-token", "system-token"])
def test_a_token_without_a_project_is_told_what_to_ask_for(client: testing.TestClient, token: str) -> None:
    answer = get(client, token)
    assert answer.status_code == 403
    assert answer.json["forbidden"]["message"] == "The token is not scoped to a project; ask for one that is."


@pytest.mark.parametrize("token", [None, "", "no-such-token", "expired-token", "a" * 5000, "a,b", "x\ty", "\u00e9"])
def test_who_has_no_valid_token_is_told_where_to_get_one(client: testing.TestClient, token: str | None) -> None:
    answer = get(client, token)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{PUBLIC_URL}"'
    assert answer.json == {"unauthorized": {"code": 401, "message": "The request you have made requires authentication."}}
    assert re.fullmatch(r"req-[0-9a-f-]{36}", answer.headers["x-openstack-request-id"])
    assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]


FORGED = {
    "X-Identity-Status": "Confirmed",
    "X-Service-Identity-Status": "Confirmed",
    "X-User-Id": "u-root",
    "X-Project-Id": "other",
    "X-Roles": "admin",
    "X-Role": "admin",
    "X-Tenant-Id": "other",
    "X-Is-Admin-Project": "True",
    "OpenStack-System-Scope": "all",
}


def test_identity_headers_of_a_client_let_nobody_in_and_raise_nobody(client: testing.TestClient) -> None:
    assert get(client, None, **FORGED).status_code == 401
    assert get(client, "no-such-token", **FORGED).status_code == 401
    answer = get(client, "member-token", **FORGED)
    assert RUNNING in list_ids(answer)
    assert OTHERS not in list_ids(answer)
    assert get(client, "member-token", "/v1/agents", **FORGED).status_code == 403


def test_a_comma_in_a_roles_name_makes_no_second_role(client: testing.TestClient, keystone: SmallKeystone) -> None:
    keystone.tokens["comma-token"] = build_token("reader,admin")
    assert get(client, "comma-token", "/v1/agents").status_code == 403


def test_a_delayed_decision_is_made_here(store: Application, keystone: SmallKeystone, tmp_path: Path) -> None:
    client = create_client(store, write_config(tmp_path, keystone.url, "delay_auth_decision = true\n"))
    assert get(client, None).status_code == 401
    assert get(client, "no-such-token", **FORGED).status_code == 401
    assert get(client, "member-token").status_code == 200


def test_a_service_token_gives_no_rights(client: testing.TestClient, keystone: SmallKeystone) -> None:
    keystone.tokens["service-user-token"] = build_token("service", "admin", user="u-nova")
    assert get(client, None, **{"X-Service-Token": "service-user-token"}).status_code == 401
    assert get(client, "reader-token", "/v1/agents", **{"X-Service-Token": "service-user-token"}).status_code == 403
    assert get(client, "reader-token", **{"X-Service-Token": "service-user-token"}).status_code == 200
    assert get(client, "reader-token", **{"X-Service-Token": "no-such-token"}).status_code == 401


def test_an_application_credential_opens_only_what_its_rules_name(client: testing.TestClient, keystone: SmallKeystone) -> None:
    rules = [{"id": "a", "service": "compute", "method": "GET", "path": "/v2.1/servers/*"}]
    catalog = [{"type": "compute", "name": "crashcart", "id": "c", "endpoints": []}]
    keystone.tokens["limited-token"] = build_token(
        "member", "reader", catalog=catalog, application_credential={"id": "ac", "restricted": True, "access_rules": rules}
    )
    assert get(client, "limited-token", f"{SERVERS}/{RUNNING}").status_code == 200
    assert get(client, "limited-token").status_code == 401


def test_the_middlewares_own_memory_spares_keystone(client: testing.TestClient, keystone: SmallKeystone) -> None:
    assert {get(client, "member-token").status_code for _ in range(4)} == {200}
    assert keystone.validations == 1


def test_version_documents_and_the_healthcheck_need_no_keystone(store: Application, keystone: SmallKeystone, tmp_path: Path) -> None:
    client = create_client(store, write_config(tmp_path, "http://127.0.0.1:1"))
    assert [get(client, None, path).status_code for path in ("/", "/v2.1", "/v2.1/", "/healthcheck")] == [200] * 4
    assert get(client, None, "/v1").status_code == 401


def test_while_keystone_is_away_or_broken_the_answer_says_so(client: testing.TestClient, keystone: SmallKeystone) -> None:
    assert get(client, "reader-token").status_code == 200
    keystone.broken = True
    assert_away(get(client, "member-token"))
    assert get(client, "reader-token").status_code == 200, "what is remembered still counts"
    keystone.broken = False
    assert get(client, "member-token").status_code == 200


def test_nobody_at_keystones_address_is_503_as_well(store: Application, tmp_path: Path) -> None:
    assert_away(get(create_client(store, write_config(tmp_path, "http://127.0.0.1:1")), "member-token"))


def assert_away(answer: Any) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert "identity service" in answer.json["serviceUnavailable"]["message"]
    assert re.fullmatch(r"req-[0-9a-f-]{36}", answer.headers["x-openstack-request-id"])


def test_a_keystone_that_hangs_leaves_threads_to_what_needs_none(
    client: testing.TestClient, keystone: SmallKeystone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on, answer = threading.Event(), threading.Event(), keystone.answer

    def hang(method: str, path: str, headers: Any) -> Any:
        asked.set()
        go_on.wait(30)
        return answer(method, path, headers)

    monkeypatch.setattr(keystone, "answer", hang)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(get(client, "member-token").status_code))
    waiting.start()
    assert asked.wait(30)
    assert get(client, "reader-token").status_code == 503, "one of three threads may wait for Keystone, and one does"
    assert get(client, None, "/healthcheck").status_code == 200
    go_on.set()
    waiting.join(30)
    assert answers == [200]


def test_what_keystone_says_of_domains_can_be_asked_for_by_the_policy(store: Application, keystone: SmallKeystone, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text('"crashcart:agents:list": "user_domain_id:d-users and project_domain_id:d-projects"\n')
    client = create_client(store, write_config(tmp_path, keystone.url))
    assert get(client, "bare-token", "/v1/agents").status_code == 200


def test_a_configuration_that_cannot_work_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text("[api]\nauth_strategy = keystone\n")
    with pytest.raises(StrategyUnusable, match="auth_type is not set"):
        create_keystone(load_config(["--config-file", str(path)], prog="test"), SystemClock())
    path.write_text("[api]\nauth_strategy = keystone\n[keystone_authtoken]\nauth_type = no-such-plugin\n")
    with pytest.raises(StrategyUnusable, match="no-such-plugin"):
        create_keystone(load_config(["--config-file", str(path)], prog="test"), SystemClock())


def test_keystone_is_not_waited_for_as_long_as_the_middleware_would(tmp_path: Path) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text("[keystone_authtoken]\nauth_type = password\nauth_url = http://127.0.0.1:1\n")
    conf = load_config(["--config-file", str(path)], prog="test")
    create_keystone(conf, SystemClock())
    assert (conf.keystone_authtoken.http_connect_timeout, conf.keystone_authtoken.http_request_max_retries) == (5, 1)
