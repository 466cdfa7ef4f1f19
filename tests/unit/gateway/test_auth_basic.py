"""Strategy http_basic: who gets in, what strangers learn, and what a flood or a slip of the editor can do."""

import base64
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from api_gateway.auth.accounts import read_accounts
from api_gateway.auth.verdicts import Verdicts
from api_gateway.reloading import Unreadable
from tests.fakes import FakeClock
from tests.http.application import Application
from tests.http.fleet import OTHERS, RUNNING
from tests.unit.gateway.auth_parts import HASHES, ROLES, build_login, create_basic_application, hash_password, write_user_file

SERVERS = "/v2.1/servers"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def application(tmp_path: Path, clock: FakeClock) -> Iterator[Application]:
    application = create_basic_application(tmp_path, clock=clock)
    yield application
    application.close()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """For cases that leave no trace."""
    application = create_basic_application(tmp_path_factory.mktemp("basic"))
    yield application
    application.close()


class CountedChecks:
    """Counts bcrypt's checks, and what they were made against."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self._check = bcrypt.checkpw

    def __call__(self, password: bytes, digest: bytes) -> bool:
        self.hashes.append(digest)
        return self._check(password, digest)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> CountedChecks:
    checks = CountedChecks()
    monkeypatch.setattr(bcrypt, "checkpw", checks)
    return checks


def get(application: Application, headers: dict[str, str], path: str = SERVERS) -> Any:
    return application.client.simulate_get(path, headers=headers)


def list_ids(answer: Any) -> set[str]:
    return {server["id"] for server in answer.json["servers"]}


def test_a_user_sees_the_servers_of_its_project_and_acts_in_its_name(unchanged: Application) -> None:
    answer = get(unchanged, build_login("alice"))
    assert answer.status_code == 200
    assert RUNNING in list_ids(answer)
    assert OTHERS not in list_ids(answer)
    assert get(unchanged, build_login("alice"), f"{SERVERS}/{OTHERS}").status_code == 404
    assert get(unchanged, build_login("alice"), f"{SERVERS}?all_tenants=1").status_code == 403


def test_an_admins_role_is_read_in_any_case_and_holds_in_all_projects(unchanged: Application) -> None:
    assert get(unchanged, build_login("bob"), f"{SERVERS}/{RUNNING}").status_code == 200
    assert {RUNNING, OTHERS} <= list_ids(get(unchanged, build_login("bob"), f"{SERVERS}?all_tenants=1"))


def test_a_user_without_an_entry_is_known_and_may_nothing(unchanged: Application) -> None:
    answer = get(unchanged, build_login("nobody"))
    assert answer.status_code == 403
    assert answer.json["forbidden"]["message"] == "The user nobody has neither a project nor roles here."


def encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


MALFORMED = {
    "nothing": None,
    "empty": "",
    "another scheme": "Bearer abc",
    "no token": "Basic",
    "not base64": "Basic %%%",
    "half a base64 group": "Basic YWxpY2",
    "no colon": f"Basic {encode(b'alice')}",
    "no user": f"Basic {encode(b':wonderland')}",
    "not UTF-8": f"Basic {encode(b'alice:' + bytes([0xFF]))}",
    "NUL in the password": f"Basic {encode(b'alice:wonderland' + bytes(1))}",
    "NUL in the user": f"Basic {encode(bytes(1) + b'alice:wonderland')}",
    "a line break in the user": f"Basic {encode(b'alice' + bytes([13, 10]) + b'X-Roles: admin:wonderland')}",
    "two tokens": f"Basic {encode(b'alice:wonderland')} {encode(b'bob:builder')}",
    "not ASCII": "Basic \u00e9\u00e9",
    "a megabyte": "Basic " + "A" * 1_000_000,
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_login_is_asked_for_one(unchanged: Application, header: str | None) -> None:
    answer = get(unchanged, {} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="crashcart", charset="UTF-8"'
    assert answer.json["unauthorized"]["code"] == 401
    assert re.fullmatch(r"req-[0-9a-f-]{36}", answer.headers["x-openstack-request-id"])


@pytest.mark.parametrize("path", ["/v2.1/servers/x/action", "/v1/agents", "/nowhere", "/v2.1//", "/healthcheck/", "/HEALTHCHECK", "/v1"])
def test_everything_but_the_version_documents_and_the_healthcheck_asks_for_a_login(unchanged: Application, path: str) -> None:
    assert unchanged.client.simulate_post(path).status_code == 401
    assert [get(unchanged, {}, open_path).status_code for open_path in ("/", "/v2.1", "/v2.1/", "/healthcheck")] == [200] * 4


def test_identity_headers_of_a_client_are_not_read(unchanged: Application) -> None:
    forged = {"X-User-Id": "root", "X-Project-Id": "other", "X-Roles": "admin", "X-Identity-Status": "Confirmed"}
    assert get(unchanged, forged).status_code == 401
    assert get(unchanged, {**build_login("alice"), **forged}, "/v1/agents").status_code == 403


def test_a_stranger_cannot_tell_an_unknown_user_from_a_wrong_password(application: Application, checks: CountedChecks) -> None:
    wrong, unknown = (get(application, build_login(user, "guess")) for user in ("alice", "mallory"))
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json == unknown.json
    assert len(checks.hashes) == 2, "both cost one bcrypt check"
    assert checks.hashes[0] == HASHES["alice"].encode()
    assert checks.hashes[1] not in {digest.encode() for digest in HASHES.values()}
    assert [digest[:7] for digest in checks.hashes] == [b"$2b$04$"] * 2, "of the same cost"


def test_a_checked_password_is_remembered_for_a_while_and_another_one_is_not_let_in_by_it(
    application: Application, checks: CountedChecks, clock: FakeClock
) -> None:
    for _ in range(3):
        assert get(application, build_login("alice")).status_code == 200
    assert len(checks.hashes) == 1
    assert get(application, build_login("alice", "wonderlanD")).status_code == 401
    clock.advance(60)
    assert get(application, build_login("alice")).status_code == 200
    assert len(checks.hashes) == 3


def test_a_login_in_use_is_checked_again_by_one_before_its_time_is_over(
    application: Application, checks: CountedChecks, clock: FakeClock
) -> None:
    get(application, build_login("alice"))
    clock.advance(50)
    assert {get(application, build_login("alice")).status_code for _ in range(3)} == {200}
    assert len(checks.hashes) == 2
    clock.advance(40)
    assert get(application, build_login("alice")).status_code == 200
    assert len(checks.hashes) == 2, "the second check holds as long as the first"


def test_the_same_wrong_login_costs_one_check_and_one_line_without_the_password(
    application: Application, checks: CountedChecks, caplog: pytest.LogCaptureFixture
) -> None:
    assert {get(application, build_login("mallory\r\nalice", "old-one")).status_code for _ in range(5)} == {401}
    assert len(checks.hashes) == 1
    assert [record.getMessage() for record in caplog.records] == [r"wrong user or password: login as 'mallory\r\nalice' from 127.0.0.1"]
    assert "old-one" not in caplog.text


def test_without_the_memory_each_request_is_checked(tmp_path: Path, checks: CountedChecks) -> None:
    application = create_basic_application(tmp_path, clock=FakeClock(), http_basic_cache_seconds=0)
    assert [get(application, build_login("alice")).status_code for _ in range(2)] == [200, 200]
    assert len(checks.hashes) == 2
    application.close()


def test_a_password_longer_than_bcrypt_reads_never_fits(tmp_path: Path, clock: FakeClock, checks: CountedChecks) -> None:
    application = create_basic_application(tmp_path, clock=clock)
    write_user_file(tmp_path / "htpasswd", [f"alice:{hash_password('x' * 72)}"])
    clock.advance(1)
    assert get(application, build_login("alice", "x" * 72)).status_code == 200
    assert get(application, build_login("alice", "x" * 73)).status_code == 401
    assert len(checks.hashes) == 2, "and costs the same work"
    application.close()


def test_a_removed_user_is_out_at_once_although_its_password_was_remembered(
    application: Application, tmp_path: Path, clock: FakeClock
) -> None:
    assert get(application, build_login("alice")).status_code == 200
    write_user_file(tmp_path / "htpasswd", [f"bob:{HASHES['bob']}"])
    clock.advance(1)
    assert get(application, build_login("alice")).status_code == 401


def test_changed_roles_take_effect_at_once(application: Application, tmp_path: Path, clock: FakeClock) -> None:
    assert get(application, build_login("alice"), "/v1/agents").status_code == 403
    (tmp_path / "roles.yaml").write_text("alice: {project: demo, roles: [admin]}\n")
    clock.advance(1)
    assert get(application, build_login("alice"), "/v1/agents").status_code == 200


@pytest.mark.parametrize("name", ["htpasswd", "roles.yaml"])
def test_a_slip_of_the_editor_locks_nobody_out_and_lets_nobody_in(
    application: Application, tmp_path: Path, clock: FakeClock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for change in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        change(tmp_path / name)
        clock.advance(1)
        assert get(application, build_login("alice")).status_code == 200
        assert get(application, build_login("nobody")).status_code == 403
        assert get(application, build_login("alice", "guess")).status_code == 401
    assert len([record for record in caplog.records if "stays in force" in record.message]) == 2


def test_a_flood_of_logins_leaves_threads_and_those_who_are_in_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = create_basic_application(tmp_path, threads=8)
    assert get(application, build_login("alice")).status_code == 200
    entered, go_on = threading.Semaphore(0), threading.Event()

    def check_slowly(_password: bytes, _digest: bytes) -> bool:
        entered.release()
        go_on.wait(30)
        return False

    monkeypatch.setattr(bcrypt, "checkpw", check_slowly)
    answers: list[int] = []
    flood = [
        threading.Thread(target=lambda n=n: answers.append(get(application, build_login("alice", f"guess-{n}")).status_code))
        for n in range(2)
    ]
    for thread in flood:
        thread.start()
        assert entered.acquire(timeout=30)

    refused = get(application, build_login("bob"))
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    assert refused.json["serviceUnavailable"]["message"] == "Too many logins are being checked at the moment. Try again."
    assert get(application, build_login("alice")).status_code == 200
    assert get(application, {}, "/healthcheck").status_code == 200

    go_on.set()
    for thread in flood:
        thread.join(30)
    assert answers == [401, 401]
    application.close()


def test_a_web_page_cannot_use_the_password_that_its_readers_browser_remembers(unchanged: Application) -> None:
    for header in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert get(unchanged, {**build_login("bob"), **header}).status_code == 403


def test_other_names_than_loopback_are_answered(unchanged: Application) -> None:
    assert get(unchanged, {**build_login("alice"), "Host": "crashcart.example.org"}).status_code == 200


BAD_USER_LINES = {
    "MD5": "alice:$apr1$aaaaaaaa$bbbbbbbbbbbbbbbbbbbbb/",
    "SHA-1": "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "SHA-512": "alice:$6$salt$hash",
    "plain text": "alice:wonderland",
    "no hash": "alice",
    "no user": f":{HASHES['alice']}",
    "too dear": f"alice:$2b$31${HASHES['alice'][7:]}",
    "too cheap": f"alice:$2b$03${HASHES['alice'][7:]}",
    "twice": f"alice:{HASHES['alice']}\nalice:{HASHES['bob']}",
}


@pytest.mark.parametrize("lines", BAD_USER_LINES.values(), ids=BAD_USER_LINES)
def test_a_line_that_cannot_be_used_is_named_and_never_shown(tmp_path: Path, lines: str) -> None:
    write_user_file(tmp_path / "htpasswd", ["# users", lines])
    (tmp_path / "roles.yaml").write_text(ROLES)
    with pytest.raises(Unreadable, match=r"htpasswd line [23]: ") as refused:
        read_accounts(str(tmp_path / "htpasswd"), str(tmp_path / "roles.yaml"))
    assert lines.partition("\n")[0].partition(":")[2][:12] not in str(refused.value) or lines == "alice"


BAD_ROLES = {
    "not YAML": "alice: [",
    "a list": "- alice",
    "no project": "alice: {roles: [member]}",
    "an unknown key": "alice: {project: demo, roles: [member], role: admin}",
    "roles that are no list": "alice: {project: demo, roles: member}",
    "a role that is no name": "alice: {project: demo, roles: [yes]}",
    "a project that is no name": "alice: {project: 5, roles: [member]}",
    "a user that is no name": "yes: {project: demo, roles: [member]}",
}


@pytest.mark.parametrize("text", BAD_ROLES.values(), ids=BAD_ROLES)
def test_roles_that_cannot_be_used_are_refused(tmp_path: Path, text: str) -> None:
    write_user_file(tmp_path / "htpasswd")
    (tmp_path / "roles.yaml").write_text(text)
    with pytest.raises(Unreadable, match=r"roles\.yaml"):
        read_accounts(str(tmp_path / "htpasswd"), str(tmp_path / "roles.yaml"))


@pytest.mark.parametrize(("name", "mode"), [("htpasswd", 0o644), ("htpasswd", 0o642), ("roles.yaml", 0o666)])
def test_files_open_to_everybody_are_refused(tmp_path: Path, name: str, mode: int) -> None:
    write_user_file(tmp_path / "htpasswd")
    (tmp_path / "roles.yaml").write_text(ROLES)
    (tmp_path / name).chmod(mode)
    with pytest.raises(Unreadable, match=f"has mode {mode:04o}: chmod"):
        read_accounts(str(tmp_path / "htpasswd"), str(tmp_path / "roles.yaml"))


@pytest.mark.parametrize("prefix", ["$2y$", "$2b$", "$2a$"])
def test_every_kind_of_bcrypt_hash_that_is_sound_is_taken(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "roles.yaml").write_text(ROLES)
    write_user_file(tmp_path / "htpasswd", [f"alice:{prefix}{HASHES['alice'][4:]}"])
    accounts = read_accounts(str(tmp_path / "htpasswd"), str(tmp_path / "roles.yaml"))
    assert bcrypt.checkpw(b"wonderland", accounts.hashes["alice"])


def test_the_memory_is_bounded_and_holds_no_password() -> None:
    verdicts = Verdicts(FakeClock(), seconds=60, size=3)
    fingerprints = [verdicts.compute_fingerprint("alice", f"password-{n}".encode()) for n in range(5)]
    for fingerprint in fingerprints:
        verdicts.add(fingerprint)
    assert [verdicts.has(fingerprint) for fingerprint in fingerprints] == [False, False, True, True, True]
    assert not any(b"password" in fingerprint for fingerprint in fingerprints)
    other = Verdicts(FakeClock(), seconds=60, size=3)
    assert other.compute_fingerprint("alice", b"password-0") != fingerprints[0], "the key is this process's own"
