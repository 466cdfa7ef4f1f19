"""Secrets in a system of real processes that logs all it can: none is in what it says, tells, answers, or shows of itself.

Those of management controllers are looked for in tests/bare_metal/test_inventory.py, where there are some.
"""

import base64
import json
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import bcrypt
import pytest

from api_gateway.store import Store
from compute_agent.contract.broker import BROKER_ERRORS
from compute_agent.contract.notifications import encode
from devstack.api_client import ApiClient
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import Service, iterate_command_lines, wait_until
from devstack.signing_keys import make_signing_options
from devstack.stack_config import Options, merge, write_agent_config, write_gateway_config
from tests.stack.ear import Ear

PATIENCE = 60.0
USER_PASSWORD, WRONG_PASSWORD, BROKER_PASSWORD, MAIL_PASSWORD = (
    f"canary-{word}-in-the-mine" for word in ("user", "wrong", "broker", "mail")
)
_LEVELS = "amqp=DEBUG,kombu=DEBUG,oslo_messaging=DEBUG,oslo.messaging=DEBUG,urllib3=DEBUG,sqlalchemy=INFO"
"""SQLAlchemy's DEBUG writes the rows that it reads, secrets of webhooks among them; doc/security.rst says so."""
TALKATIVE: Options = {"DEFAULT": {"debug": True, "default_log_levels": _LEVELS}}
COLUMNS_OF_SECRETS = {("subscriptions", "secret"), ("secrets", "value")}
_LOOK_EVERY = 0.1
PAGES = (
    *("/healthcheck", "/openapi.json", "/v1/agents", "/v1/servers", "/v1/events", "/v1/subscriptions", "/v2.1/servers/detail"),
    *("/v1/events/nonsense", "/v1/subscriptions/nonsense", "/v1/events?type=nonsense", "/v1/events?limit=nonsense"),
)


class PassersBy(threading.Thread):
    """Looks at the command lines of all processes again and again, as ``ps`` shows them to everybody: some live for a moment only."""

    def __init__(self) -> None:
        super().__init__(name="passers-by", daemon=True)
        self.seen: set[bytes] = set()
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY):
            self.seen.update(command_line for _, command_line in iterate_command_lines())

    def have_seen(self, word: bytes) -> bool:
        return any(word in command_line for command_line in tuple(self.seen))

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class System:
    """Agent, engine and API over a broker, one agent that the broker lets not in, and an ear; ``secrets`` by name."""

    def __init__(self, folder: Path, broker: PrivateRabbitMQ, stack: ExitStack) -> None:
        self.folder = folder
        self.broker = broker
        self.ports = Ports(find_free_base())
        self.passers_by = PassersBy()
        self.passers_by.start()
        stack.callback(self.passers_by.stop)
        self._stack = stack
        self._write_files()
        private_key = (folder / "keys" / "devstack.key").read_text().splitlines()[1]
        self.secrets = {
            "a user's password": USER_PASSWORD,
            "a wrong password": WRONG_PASSWORD,
            "the broker's password": broker.password,
            "a wrong password of the broker's": BROKER_PASSWORD,
            "the mail server's password": MAIL_PASSWORD,
            "the signing key": private_key,
        }
        store = Store(f"sqlite:///{folder / 'gateway' / 'gateway.sqlite'}")
        store.upgrade_schema()
        store.dispose()
        for name, program in (("agent", "agent"), ("gateway", "engine"), ("gateway", "api"), ("shut-out", "agent")):
            self._start(f"{name}.conf", program, "shut-out" if name == "shut-out" else program)
        self.client = self.log_in("alice", USER_PASSWORD)
        wait_until(self.client.is_healthy, PATIENCE, "the API serves")
        # Other tests' hosts may have left heartbeats at the broker.
        (self.server,) = wait_until(self._list_servers, PATIENCE, "the API knows the server")
        self.ear = Ear(broker, "canaries-agent")
        stack.callback(self._leave_ear)

    def log_in(self, user: str, password: str) -> ApiClient:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        return ApiClient(f"http://127.0.0.1:{self.ports.api}", {"Authorization": f"Basic {login}"})

    def _list_servers(self) -> list[str]:
        return [server["id"] for server in self.client.get("/v1/servers?host=canaries-agent").body["servers"]]

    def _leave_ear(self) -> None:
        with suppress(*BROKER_ERRORS):  # its connection was cut
            self.ear.close()

    def read_logs(self) -> dict[str, str]:
        logs = [*self.folder.glob("*.log"), self.broker.log]
        return {path.name: path.read_text(errors="replace") for path in logs}

    def read_store(self) -> dict[str, str]:
        """The gateway's tables, column by column, but for those that are there for secrets."""
        told = {}
        with closing(sqlite3.connect(f"file:{self.folder / 'gateway' / 'gateway.sqlite'}?mode=ro", uri=True)) as store:
            tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = store.execute(f"SELECT * FROM {table}")
                columns = [column for column, *_ in rows.description]
                for column, values in zip(columns, zip(*rows, strict=True), strict=False):
                    if (table, column) not in COLUMNS_OF_SECRETS:
                        told[f"{table}.{column}"] = repr(values)
        return told

    def _write_files(self) -> None:
        folder = self.folder
        agent_signing, gateway_signing = make_signing_options(folder / "keys")
        users = {"htpasswd": f"alice:{bcrypt.hashpw(USER_PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n", "mail-password": MAIL_PASSWORD}
        for name, content in {**users, "roles.yaml": "alice: {project: demo, roles: [admin]}\n"}.items():
            (folder / name).write_text(content)
            (folder / name).chmod(0o600)
        for name, url in {
            "agent": self.broker.transport_url,
            "shut-out": self.broker.transport_url.replace(self.broker.password, BROKER_PASSWORD),
        }.items():
            write_agent_config(
                folder / f"{name}.conf",
                transport_url=url,
                driver={"agent": {"driver": "fake"}, "fake": {"servers": 1}},
                state_path=folder / name,
                extra=merge(TALKATIVE, agent_signing, {"DEFAULT": {"host": f"canaries-{name}"}}),
            )
        basic = {"http_basic_auth_user_file": folder / "htpasswd", "http_basic_roles_file": folder / "roles.yaml"}
        mail = {"host": "127.0.0.1", "port": 1, "user": "crashcart", "password_file": folder / "mail-password"}
        write_gateway_config(
            folder / "gateway.conf",
            transport_url=self.broker.transport_url,
            ports=self.ports,
            state_path=folder / "gateway",
            wake_socket=folder / "wake.sock",
            extra=merge(
                TALKATIVE,
                gateway_signing,
                {"api": {"auth_strategy": "http_basic", **basic}, "smtp": mail, "recorder": {"verify_senders": False}},
                {"deliveries": {"allowed_networks": "127.0.0.0/8", "allow_plain_http": True}},
            ),
        )

    def _start(self, config: str, program: str, name: str) -> None:
        command = [str(Path(sys.executable).parent / f"crashcart-{program}"), "--config-file", str(self.folder / config)]
        service = Service(name, command, log=self.folder / f"{name}.log", cwd=self.folder)
        service.start()
        self._stack.callback(service.kill)


@pytest.fixture
def system(tmp_path: Path, broker: PrivateRabbitMQ) -> Iterator[System]:
    with ExitStack() as stack:
        yield System(tmp_path, broker, stack)


def test_no_secret_is_in_anything_that_is_said(system: System) -> None:
    client, secrets, server = system.client, system.secrets, system.server
    said: dict[str, str] = {}
    hook = client.post("/v1/subscriptions", {"target": {"kind": "webhook", "url": "http://127.0.0.1:1/"}})
    post = client.post("/v1/subscriptions", {"target": {"kind": "email", "address": "ann@example.com"}})
    assert (hook.status, post.status) == (201, 201), hook.text + post.text
    secrets["webhook"] = hook.body["secret"].removeprefix("whsec_")

    said["a login that fails"] = system.log_in("alice", WRONG_PASSWORD).get("/v1/servers").text
    action = client.trigger_crash_dump(server).request_id
    assert client.get_action(action, wait=PATIENCE)["ending"] == "succeeded"
    (box,) = wait_until(lambda: client.get(f"/v1/events?type=server.black_box&server={server}").body["events"], PATIENCE, "the black box")
    failing = wait_until(lambda: _find_errors(client), PATIENCE, "both subscriptions to fail")
    ticket = client.get("/v1/events/stream").headers["location"]
    secrets["ticket"] = ticket.rpartition("=")[2]
    system.ear.wait_for_event("server.black_box")
    system.broker.ctl("close_all_connections", "as a partition would")
    words = {"engine": "127.0.0.1", "agent": "127.0.0.1", "shut-out": "ACCESS_REFUSED"}
    wait_until(
        lambda: all(word in system.read_logs()[f"{name}.log"] for name, word in words.items()), PATIENCE, "a word on the broker of each"
    )

    said |= {path: client.get(path).text for path in (*PAGES, f"/v1/actions/{action}", f"/v1/events/{box['id']}", f"/v1/servers/{server}")}
    said |= {f"{part['name']} of the black box": _read_part(client, box, part["name"]) for part in box["payload"]["parts"]}
    said |= failing | system.read_logs() | system.read_store()
    wait_until(lambda: system.broker.ctl("version") and system.passers_by.have_seen(b"rabbitmqctl"), PATIENCE, "a rabbitmqctl to pass by")
    system.passers_by.stop()
    said["what ps shows"] = "\n".join(command_line.decode(errors="replace") for command_line in system.passers_by.seen)
    said |= {f"message {number}": encode(heard).decode() for number, heard in enumerate(system.ear.heard)}
    said["the agent's journal"] = (system.folder / "agent" / "journal.sqlite").read_bytes().decode(errors="replace")

    assert "DEBUG" in said["engine.log"]
    assert box["id"] in said["events.message_id"]
    leaks = [f"{name} in {place}" for name, secret in secrets.items() for place, text in said.items() if secret in text]
    assert leaks == []


def _find_errors(client: ApiClient) -> Mapping[str, str] | None:
    """What is told of the deliveries of each subscription, once all of them have failed."""
    pages = {}
    for subscription in client.get("/v1/subscriptions").body["subscriptions"]:
        path = f"/v1/subscriptions/{subscription['id']}/deliveries"
        pages[path] = client.get(path).text
    return pages if all(any(row["last_error"] for row in json.loads(text)["deliveries"]) for text in pages.values()) else None


def _read_part(client: ApiClient, box: Mapping[str, str], name: str) -> str:
    return client.get(f"/v1/events/{box['id']}/black-box/{name}").text
