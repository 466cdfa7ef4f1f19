"""Who asks for actions: clients of several projects, at a fixed rate together, who write down each answer.

Most of them try again when no answer comes, with the same idempotency key, as the API's own documentation advises.
"""

import http.client
import json
import random
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from compute_agent.contract.models import ActionKind
from devstack.api_client import Answer, ApiClient
from devstack.services import PATIENCE
from tests.chaos.history import History, What
from tests.chaos.system import ChaosSystem, choose_client

_TIMEOUT = 5.0
_TRIES = 3
_FOR_ADMINS = frozenset({ActionKind.COLLECT_DIAGNOSTICS})
DEADLINES = (4, 6, 10)
_OLD_API_SHARE = 0.3
"""Of the crash dumps: asked for through the Compute API, which has no idempotency key."""
NO_ANSWER = (OSError, http.client.HTTPException)


class Traffic:
    """Runs until :meth:`stop`. ``accepted`` counts different actions."""

    def __init__(
        self, system: ChaosSystem, history: History, *, seed: str, rate: float, clients: int, deadlines: Sequence[int] = DEADLINES
    ) -> None:
        """:param deadlines: seconds, of which one is drawn for each action"""
        self._system = system
        self._deadlines = deadlines
        self._history = history
        self._lock = threading.Lock()
        self._pause = clients / rate
        self._stop = threading.Event()
        self._actions: set[str] = set()
        self.asked = 0
        self._owners = {server: (host.name, project) for host in system.hosts.values() for server, project in host.servers.items()}
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed}/client {number}"),), name=f"client-{number}")
            for number in range(clients)
        ]

    @property
    def accepted(self) -> int:
        with self._lock:
            return len(self._actions)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when the last answer came."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ask(self, server: str, kind: ActionKind, *, deadline: int, force: bool = False) -> Answer:
        """Once, as an admin, beside what the clients ask for. Raises OSError when no answer comes."""
        key, asked_at = uuid.uuid4().hex, time.time()
        method, path, body, headers = _make_request(server, kind, key, force, random.Random(key), deadline)
        answer = self._system.create_clients()[0].request(method, path, body=body, headers=headers, timeout=_TIMEOUT * PATIENCE)
        self._write(server, kind, key, force, asked_at, answer, "")
        return answer

    def _run(self, chance: random.Random) -> None:
        members = {project: self._system.create_clients(project) for project in self._system.projects}
        admins = self._system.create_clients()
        servers = sorted(self._owners)
        kinds = self._system.hosting.kinds
        due = time.monotonic() + chance.random() * self._pause
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            # What was late is not made up for: that would be a stampede after each fault.
            due = max(due + self._pause, time.monotonic())
            server = chance.choice(servers)
            kind = chance.choices(list(kinds), list(kinds.values()))[0]
            self._ask(chance, members[self._owners[server][1]], admins, server, kind)

    def _ask(self, chance: random.Random, members: list[ApiClient], admins: list[ApiClient], server: str, kind: ActionKind) -> None:
        key = (
            None
            if kind is ActionKind.TRIGGER_CRASH_DUMP and chance.random() < _OLD_API_SHARE
            else uuid.UUID(int=chance.getrandbits(128)).hex
        )
        force = kind is ActionKind.TRIGGER_CRASH_DUMP and key is not None and chance.random() < self._system.hosting.force_share
        request = _make_request(server, kind, key, force, chance, chance.choice(self._deadlines))
        askers = admins if force or kind in _FOR_ADMINS else members
        with self._lock:
            self.asked += 1
        for _ in range(_TRIES if key is not None else 1):
            asked_at, answer, error = time.time(), None, ""
            try:
                answer = choose_client(askers, chance).request(*request[:2], body=request[2], headers=request[3], timeout=_TIMEOUT)
            except NO_ANSWER as failure:
                error = repr(failure)
            self._write(server, kind, key, force, asked_at, answer, error)
            if answer is not None and answer.status != 503:
                return
            if self._stop.wait(0.5):
                return

    def _write(
        self, server: str, kind: ActionKind, key: str | None, force: bool, asked_at: float, answer: Answer | None, error: str
    ) -> None:
        host, project = self._owners[server]
        action = _find_action(answer, key)
        if action is not None:
            with self._lock:
                self._actions.add(action)
        self._history.write(
            What.ANSWER,
            project=project,
            server=server,
            host=host,
            kind=kind,
            asked_at=asked_at,
            status=None if answer is None else answer.status,
            action=action,
            key=key,
            force=force,
            error=error or ("" if answer is None or answer.status < 400 else answer.message),
        )


def _make_request(
    server: str, kind: ActionKind, key: str | None, force: bool, chance: random.Random, deadline: int
) -> tuple[str, str, bytes | None, dict[str, str]]:
    body: dict[str, Any]
    if key is None:
        return "POST", f"/v2.1/servers/{server}/action", b'{"trigger_crash_dump": null}', {"OpenStack-API-Version": "compute 2.17"}
    if kind is ActionKind.SET_WATCHDOG:
        word = chance.choice(("reset", "pause", "none"))
        body = {"model": "i6300esb", "expiry_action": word, "deadline_seconds": deadline, "idempotency_key": key}
        return "PUT", f"/v1/servers/{server}/watchdog", json.dumps(body).encode(), {}
    if kind is ActionKind.REMOVE_WATCHDOG:
        return "DELETE", f"/v1/servers/{server}/watchdog?deadline_seconds={deadline}&idempotency_key={key}", None, {}
    body = {"kind": kind, "deadline_seconds": deadline, "idempotency_key": key} | ({"force": True} if force else {})
    return "POST", f"/v1/servers/{server}/actions", json.dumps(body).encode(), {}


def _find_action(answer: Answer | None, key: str | None) -> str | None:
    if answer is None or answer.status not in (200, 202):
        return None
    if key is None:
        return answer.request_id
    action: str = answer.body["id"]
    return action
