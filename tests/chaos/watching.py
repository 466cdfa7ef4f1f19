"""Who looks on: members of each project who see what is shown to them, and a consumer of notifications beside the recorder."""

import random
import threading
import time
from typing import Any

import kombu

from compute_agent.contract.broker import BROKER_ERRORS, BrokerAddress
from compute_agent.contract.notifications import EVENTS_EXCHANGE, UnreadableNotification, decode
from compute_agent.contract.topics import Severity, routing_key
from devstack.services import wait_until
from tests.chaos.history import History, What
from tests.chaos.system import STRANGERS, ChaosSystem, choose_client
from tests.chaos.traffic import NO_ANSWER

_SHOWN_FIELDS = ("state", "ending", "code", "decided_by")
_PREFETCH = 200
SECOND_QUEUE = "chaos.second"


class Onlookers:
    """One thread: server by server it reads the actions that are shown, and tries what must not be shown."""

    def __init__(self, system: ChaosSystem, history: History, *, seed: str, pause: float = 0.25) -> None:
        self._history = history
        self._pause = pause
        self._chance = random.Random(f"{seed}/onlookers")
        self._clients = {project: system.create_clients(project) for project in system.projects}
        self._owners = {server: project for host in system.hosts.values() for server, project in host.servers.items()}
        self._shown: dict[str, tuple[Any, ...]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onlookers")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        servers = sorted(self._owners)
        number = 0
        while not self._stop.wait(self._pause):
            server = servers[number % len(servers)]
            number += 1
            try:
                self._look_at_actions(server)
                self._pry(server)
            except NO_ANSWER:
                continue

    def _look_at_actions(self, server: str) -> None:
        project = self._owners[server]
        path = f"/v1/servers/{server}/actions?limit=20"
        answer = choose_client(self._clients[project], self._chance).get(path, timeout=5)
        self._write_shown(project, path, answer.status, answer.body)
        for action in answer.body.get("actions", []) if answer.status == 200 else []:
            shown = (*(action[name] for name in _SHOWN_FIELDS), action["revised_at"] is not None)
            if self._shown.get(action["id"]) != shown:
                self._shown[action["id"]] = shown
                fields = dict(zip((*_SHOWN_FIELDS, "revised"), shown, strict=True))
                self._history.write(What.SEEN, action=action["id"], server=server, project=project, **fields)

    def _pry(self, server: str) -> None:
        """As somebody of another project: what names this server, and what names nobody's in particular."""
        owner = self._owners[server]
        stranger = self._chance.choice([project for project in STRANGERS if project != owner])
        known = list(self._shown) or ["req-00000000-0000-4000-8000-000000000000"]
        path = self._chance.choice(
            [
                f"/v1/servers/{server}",
                f"/v1/servers/{server}/actions",
                f"/v1/servers/{server}/watchdog",
                f"/v1/servers/{server}/diagnostics",
                f"/v2.1/servers/{server}",
                f"/v2.1/servers/{server}/os-instance-actions",
                f"/v1/events?server={server}&order=desc&limit=20",
                "/v1/events?order=desc&limit=50",
                f"/v1/events?project={owner}",
                f"/v1/actions/{self._chance.choice(known)}",
                "/v1/servers?limit=200",
                "/v2.1/servers/detail",
                "/v2.1/servers/detail?all_tenants=1",
                "/v1/agents",
            ]
        )
        answer = choose_client(self._clients[stranger], self._chance).get(path, timeout=5)
        self._write_shown(stranger, path, answer.status, answer.body)

    def _write_shown(self, project: str, path: str, status: int, body: Any) -> None:
        servers, projects = set[str](), set[str]()
        _collect_names(body, servers, projects, set(self._owners), set(self._clients))
        self._history.write(What.SHOWN, project=project, path=path, status=status, servers=sorted(servers), projects=sorted(projects))


def _collect_names(value: Any, servers: set[str], projects: set[str], known: set[str], known_projects: set[str]) -> None:
    """Every server and project that a JSON answer names anywhere; a server also within a sentence."""
    if isinstance(value, dict):
        for entry in value.values():
            _collect_names(entry, servers, projects, known, known_projects)
    elif isinstance(value, list):
        for entry in value:
            _collect_names(entry, servers, projects, known, known_projects)
    elif isinstance(value, str):
        servers.update(server for server in known if server in value)
        projects.update({value} & known_projects)


class SecondConsumer:
    """Anybody's consumer: a durable queue of its own on the events exchange; each message is in the history before it is acknowledged."""

    def __init__(self, transport_url: str, history: History) -> None:
        self._address = BrokerAddress(transport_url, name="second consumer")
        self._history = history
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="second-consumer")
        self._bindings = [
            kombu.Queue(
                SECOND_QUEUE, EVENTS_EXCHANGE, routing_key=routing_key(severity), durable=True, queue_arguments={"x-queue-type": "quorum"}
            )
            for severity in Severity
        ]
        self._is_listening = False
        self._heard_at = 0.0
        self.heard = 0

    def start(self) -> None:
        """Returns when its queue is bound: from then on it misses nothing."""
        self._thread.start()
        if not self._ready.wait(30):
            raise TimeoutError("the second consumer's queue was not declared within 30 s")

    def wait_idle(self, quiet: float = 7.0, timeout: float = 30.0) -> None:
        """Until nothing came for ``quiet`` seconds while it was listening: longer than a machine stands still.

        :raises TimeoutError: messages go on coming.
        """
        wait_until(lambda: self._is_listening and time.monotonic() - self._heard_at >= quiet, timeout, "the second consumer to be idle")

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._consume()
            except BROKER_ERRORS:
                self._stop.wait(0.3)

    def _consume(self) -> None:
        link = self._address.open_link()
        try:
            channel = link.channel()
            for queue in self._bindings:
                queue(channel).declare()
            channel.basic_qos(0, _PREFETCH, False)
            consumer = kombu.Consumer(channel, [self._bindings[0]], on_message=self._hear, auto_declare=False)
            consumer.consume()
            self._is_listening, self._heard_at = True, time.monotonic()
            self._ready.set()
            while not self._stop.is_set():
                link.heartbeat_tick()
                try:
                    link.drain_events(timeout=0.5)
                except TimeoutError:
                    continue
        finally:
            self._is_listening = False
            link.collect()

    def _hear(self, message: Any) -> None:
        self._heard_at = time.monotonic()
        body = message.body
        try:
            event = decode(body if isinstance(body, str) else bytes(body))
        except UnreadableNotification:
            message.ack()
            return
        payload = event.payload
        self._history.write(
            What.HEARD,
            message_id=event.message_id,
            type=event.event_type,
            host=payload.get("host"),
            epoch=payload.get("epoch"),
            sequence=payload.get("sequence"),
            action=payload.get("action_id"),
            project=payload.get("project"),
        )
        self.heard += 1
        message.ack()
