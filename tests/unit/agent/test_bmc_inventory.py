"""The inventory of bare metal: what is wrong with one entry is its own affair, and no secret is ever shown."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from compute_agent.drivers.bmc.credentials import read_secret
from compute_agent.drivers.bmc.inventory import Entry, InventoryUnreadable, WrongValue, parse_inventory, read_inventory
from compute_agent.drivers.bmc.protocol import Secret
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound
from tests.unit.agent.bmc_parts import Bench, make_entry, make_uuid

CANARY = "hunter2-canary"


@pytest.mark.parametrize(
    ("fields", "field", "advice"),
    [
        ({"name": 7}, "name", "write it as text"),
        ({"name": None}, "name", "missing"),
        ({"driver": None}, "driver", "missing"),
        ({"driver": f"{CANARY}!"}, "driver", "a word in lower case"),
        ({"driver": CANARY}, "driver", "there is no such protocol"),
        ({"driver": "telnet"}, "driver", "there is no such protocol; installed: fake"),
        ({"driver": "missing"}, "driver", "pip install 'crashcart[bmc]'"),
        ({"address": None}, "address", "missing"),
        ({"address": "https://10.0.0.1/"}, "address", "without scheme, port or path"),
        ({"port": 0}, "port", "from 1 to 65535"),
        ({"port": "623"}, "port", "a whole number"),
        ({"port": True}, "port", "a whole number"),
        ({"cipher": 256}, "cipher", "from 0 to 255"),
        ({"cipher": 99}, "cipher", "no suite of this number"),
        ({"privilege": CANARY}, "privilege", "one of callback, user, operator, administrator"),
        ({"verify_tls": "no"}, "verify_tls", "true or false"),
        ({"password": CANARY}, "password", "it is not written here"),
        ({"colour": "blue"}, "colour", "there is no such field"),
        ({CANARY * 9: 1}, "the entry", "a key that is no field's name"),
        ({"username": "admin"}, "username", "needs password_file or password_environment"),
        ({"password_file": "a", "password_environment": "B"}, "password_file", "write one of them"),
        ({"password_environment": f"{CANARY} x"}, "password_environment", "the name of an environment variable"),
        ({"password_environment": "CRASHCART_NO_SUCH"}, "password_environment", "no variable of that name"),
        ({"password_file": CANARY}, "password_file", "cannot be opened"),
        ({"password_file": f"{CANARY}\0"}, "password_file", "a single line"),
    ],
)
def test_a_wrong_entry_disables_itself_only_and_says_where_and_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], field: str, advice: str
) -> None:
    bench = Bench(tmp_path, [make_entry(1), make_entry(2, **fields), make_entry(3)])
    first, third, wrong = sorted(bench.driver.servers.list_servers(), key=lambda server: (server.id == make_uuid(2), server.id))
    assert (first.id, third.id) == (make_uuid(1), make_uuid(3))
    assert "not asked yet" in first.unread
    assert advice in wrong.unread
    assert f"{field}: " in wrong.unread
    assert f"entry 2 ({wrong.name if fields.get('name', '') == '' else 'nameless'}, {make_uuid(2)})" in caplog.text
    assert CANARY not in caplog.text + repr(wrong)
    with pytest.raises(BackendUnavailable, match="its entry in the agent's inventory cannot be used") as refusal:
        bench.driver.nmi.inject_nmi(wrong.id)  # type: ignore[union-attr]
    assert refusal.value.server == wrong.id
    for call in (bench.driver.servers.get_server, bench.driver.watchdog.get_watchdog, bench.driver.diagnostics.collect_diagnostics):  # type: ignore[union-attr]
        with pytest.raises(BackendUnavailable):
            call(wrong.id)


@pytest.mark.parametrize("wrong", [7, "text", None, [], {"uuid": "not-one"}, {"name": "nobody"}, {"uuid": 5}])
def test_an_entry_without_a_usable_uuid_is_reported_and_lists_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: Any) -> None:
    caplog.set_level("INFO")
    bench = Bench(tmp_path, [wrong, make_entry(1)])
    assert [server.id for server in bench.driver.servers.list_servers()] == [make_uuid(1)]
    assert "entry 1 (" in caplog.text
    assert "machines in use: 1, entries left out: 1" in caplog.text


def test_of_two_entries_for_one_machine_the_first_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same_id = {**make_entry(1), "address": "10.9.9.9"}
    same_place = {**make_entry(2), "address": make_entry(1)["address"], "port": 623}
    other_system = {**same_place, "uuid": make_uuid(3), "system": "2"}
    bench = Bench(tmp_path, [make_entry(1), same_id, same_place, other_system])
    listed = {server.id: server.unread for server in bench.driver.servers.list_servers()}
    assert {server for server, unread in listed.items() if "cannot be used" in unread} == {make_uuid(2)}
    assert set(listed) == {make_uuid(1), make_uuid(2), make_uuid(3)}
    assert "entry 2 (m1) is left out: uuid: entry 1 has the same" in caplog.text
    assert "address: entry 1 has the same one" in listed[make_uuid(2)]
    assert [bmc.is_closed for bmc in bench.protocol.bmcs] == [False, True, False]


def test_ids_are_in_lower_case_whatever_an_operator_writes() -> None:
    (entry,) = parse_inventory(
        f"machines: [{{uuid: {'4C4C4544-0042-3510-8056-B4C04F4E3332'}, name: a, driver: ipmi, address: b}}]".encode(), "x"
    ).entries
    assert entry.server == "4c4c4544-0042-3510-8056-b4c04f4e3332"


@pytest.mark.parametrize(
    "content",
    [
        *("", "7", "[]", "machines: 7", "machines: [], more: 1", f"machines: [*{CANARY}]", f"machines: [{CANARY}\n {{", "\x00", "a: b: c"),
        *(f"machines: [!!{tag} {CANARY}]" for tag in ("bool", "int", "float", "timestamp", "set", "python/name")),
    ],
)
def test_what_is_no_inventory_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(content)
    with pytest.raises(InventoryUnreadable) as refusal:
        read_inventory(path)
    assert str(path) in str(refusal.value)
    error: BaseException | None = refusal.value
    while error is not None:
        assert CANARY not in f"{error}{error!r}"
        error = error.__cause__ or error.__context__


def test_an_inventory_that_cannot_be_read_is_unavailable_and_never_empty(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.path.unlink()
    servers = bench.make_parts().driver.servers
    for call in (servers.list_servers, lambda: servers.get_server(make_uuid(1))):
        with pytest.raises(BackendUnavailable, match="cannot be read: No such file"):
            call()


def test_an_unknown_server_is_not_found(tmp_path: Path) -> None:
    driver = Bench(tmp_path).driver
    for call in (driver.servers.get_server, driver.nmi.inject_nmi, driver.watchdog_timer.reset_timer, driver.watchdog.remove_watchdog):  # type: ignore[union-attr]
        with pytest.raises(ServerNotFound):
            call(make_uuid(99))


# Credentials


def make_reference(**fields: Any) -> Entry:
    return Entry(1, make_uuid(1), "m1", "fake", "10.0.0.1", **fields)


def write_secret(path: Path, content: bytes = CANARY.encode(), mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"a secret", b"a secret\n", b"a secret\r\n"])
def test_a_password_is_read_from_a_file_without_its_line_end(tmp_path: Path, content: bytes) -> None:
    write_secret(tmp_path / "pw", content)
    assert read_secret(make_reference(password_file="pw"), tmp_path) == Secret(b"a secret")
    assert read_secret(make_reference(password_file=str(tmp_path / "pw")), Path("/")) == Secret(b"a secret")


def test_a_password_is_read_from_the_environment_in_bytes() -> None:
    assert read_secret(make_reference(password_environment="PW"), Path("/"), {b"PW": b"\xff"}) == Secret(b"\xff")


def test_an_entry_without_a_reference_has_an_empty_password() -> None:
    assert read_secret(make_reference(), Path("/")) == Secret(b"")


@pytest.mark.parametrize(
    ("content", "advice"), [(b"", "empty"), (b"\n", "empty"), (b"a\nb\n", "on one line"), (b"x" * 5000, "longer"), (b"a\0b", "alone")]
)
def test_what_is_no_password_is_refused(tmp_path: Path, content: bytes, advice: str) -> None:
    write_secret(tmp_path / "pw", content)
    with pytest.raises(WrongValue, match=advice):
        read_secret(make_reference(password_file="pw"), tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_password_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    write_secret(tmp_path / "pw", mode=mode)
    with pytest.raises(WrongValue, match="chmod 0600"):
        read_secret(make_reference(password_file="pw"), tmp_path)


def test_a_password_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_secret(tmp_path / "pw")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid == 0:
        assert read_secret(make_reference(password_file="pw"), tmp_path), "root's are as good as the agent's own"
        os.chown(path, 4711, -1)
    with pytest.raises(WrongValue, match="chown it"):
        read_secret(make_reference(password_file="pw"), tmp_path)


def test_no_link_is_followed_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write_secret(tmp_path / "pw"))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "."):
        with pytest.raises(WrongValue, match=r"link|no regular file"):
            read_secret(make_reference(password_file=name), tmp_path)


def test_a_secret_is_in_nothing_that_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A canary through a machine's whole life: read, refused, failed, gone."""
    caplog.set_level(logging.DEBUG)
    write_secret(tmp_path / "pw")
    bench = Bench(tmp_path, [make_entry(1, username="root", password_file="pw")])
    (bmc,) = bench.protocol.bmcs
    assert bmc.target.password.reveal() == CANARY.encode()
    bench.begin()
    bench.machine().refusal = "no answer"
    bench.look(31)
    shown = [repr(bmc.target), repr(bench.parts.fleet.find_machine(make_uuid(1))), repr(bench.driver.servers.list_servers())]
    (tmp_path / "pw").chmod(0o644)
    bench.reload([make_entry(1, username="root", password_file="pw")])
    assert "chmod 0600" in caplog.text
    assert CANARY not in "".join([*shown, caplog.text, repr(bench.told), repr(bmc.target.password)])
    with pytest.raises(TypeError):
        pickle.dumps(bmc.target.password)
