"""The real world in the words of the scenarios: real broker, real processes, a fake hypervisor that counts on disk."""

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.fake import FakeHypervisor
from devstack.api_client import ApiClient
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, wait_until
from tests.databases import PATIENT
from tests.scenarios.world import EVENTS_OF_ACTION, ActionView
from tests.stack.counting_agent import PANICKING, SHUT_OFF, SURVIVING

ROOT = Path(__file__).parents[2]
_COMMANDS = Path(sys.executable).parent


class RealScenarioWorld:
    """One host, one engine, one API over the broker of the session. Implements ScenarioWorld; told one scenario after the other."""

    call_bound = 3.0

    def __init__(self, folder: Path, broker: PrivateRabbitMQ) -> None:
        self.folder = folder
        self.host = f"host-{uuid.uuid4().hex[:8]}"
        self.signals = folder / "signals"
        self.signals.mkdir(parents=True)
        self._broker = broker
        self._ports = Ports(find_free_base())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_files()
        self._run("crashcart-manage", "db", "upgrade")
        self.api = ApiClient(f"http://127.0.0.1:{self._ports.api}")
        self._servers = self._list_servers()
        self.start_engine()
        self._start("api", [str(_COMMANDS / "crashcart-api"), "--config-file", str(self.folder / "gateway.conf")])
        self.start_agent()
        self.wait_until(self._is_ready, 60, "the API to list the servers")

    def take_server(self, *, panics: bool = False, running: bool = True) -> str:
        return self._servers["shut_off" if not running else "panicking" if panics else "surviving"].pop()

    def post(self, server: str, *, deadline: float, force: bool = False) -> str | None:
        body = {"kind": "trigger_crash_dump", "deadline_seconds": deadline * PATIENCE, "force": force}
        answer = self.api.post(f"/v1/servers/{server}/actions", body)
        assert answer.status in (202, 409), f"{answer.status} {answer.text}"
        return str(answer.body["id"]) if answer.status == 202 else None

    def cancel(self, action: str) -> bool:
        answer = self.api.post(f"/v1/actions/{action}/cancel", {})
        assert answer.status in (200, 202, 409), f"{answer.status} {answer.text}"
        return answer.status != 409

    def get_action(self, action: str) -> ActionView:
        body = self.api.get_action(action)
        observation = body["observation"]
        return ActionView(
            body["state"],
            body["ending"],
            body["code"],
            body["decided_by"],
            body["revised_at"] is not None,
            None if observation is None else observation["observation"],
        )

    def list_events(self, action: str) -> list[str]:
        with sqlite3.connect(f"file:{self.folder / 'gateway.sqlite'}?mode=ro", uri=True) as connection:
            rows = connection.execute(EVENTS_OF_ACTION, (action,)).fetchall()
        connection.close()
        return [row[0] for row in rows]

    def count_signals(self, server: str) -> int:
        counted = self.signals / server
        return len(counted.read_text()) if counted.exists() else 0

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        try:
            wait_until(condition, timeout, what, interval=0.05)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.tell_logs()}") from error

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)  # the scenario itself is about time that passes and nothing that happens

    def hold_answers(self, on: bool) -> None:
        hold = self.signals / "hold"
        if on:
            hold.touch()
        else:
            hold.unlink(missing_ok=True)

    def kill_agent(self) -> None:
        self._kill("agent")

    def start_agent(self) -> None:
        self._start("agent", [sys.executable, "-m", "tests.stack.counting_agent", "--config-file", str(self.folder / "agent.conf")])

    def lose_journal(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.folder / 'agent' / 'journal.sqlite'}{suffix}").unlink(missing_ok=True)

    def kill_engine(self) -> None:
        self._kill("engine")

    def start_engine(self) -> None:
        self._start("engine", [str(_COMMANDS / "crashcart-engine"), "--config-file", str(self.folder / "gateway.conf")])

    def stop_broker(self) -> None:
        self._broker.stop()

    def start_broker(self) -> None:
        self._broker.start()

    def close(self) -> None:
        if not self._broker.is_running:
            self._broker.start()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def tell_logs(self) -> str:
        """The last lines that each process logged."""
        tails = [f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-25:]) for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(tails)

    def _write_files(self) -> None:
        (self.folder / "agent.conf").write_text(
            f"[DEFAULT]\nhost = {self.host}\ntransport_url = {self._broker.transport_url}\n"
            f"[agent]\ndriver = fake\nstate_path = {self.folder / 'agent'}\nfirst_look = 2\nheartbeat_interval = 2\n"
            f"[fake]\nseed = {self.host}\ncall_bound = {self.call_bound}\n"
        )
        (self.folder / "gateway.conf").write_text(
            f"[DEFAULT]\ntransport_url = {self._broker.transport_url}\n"
            f"[database]\nconnection = sqlite:///{self.folder / 'gateway.sqlite'}\nbusy_timeout = {PATIENT}\n"
            f"[api]\nlisten_port = {self._ports.api}\n"
            f"[dispatcher]\nwake_socket =\n"
        )

    def _list_servers(self) -> dict[str, list[str]]:
        """The ids that the counting agent will make: they depend on the seed and the order alone."""
        hypervisor = FakeHypervisor(SystemClock(), seed=self.host)
        ids = [hypervisor.make_server() for _ in range(SURVIVING + PANICKING + SHUT_OFF)]
        return {
            "surviving": ids[:SURVIVING],
            "panicking": ids[SURVIVING : SURVIVING + PANICKING],
            "shut_off": ids[SURVIVING + PANICKING :],
        }

    def _is_ready(self) -> bool:
        try:
            mine = [server for server in self.api.list_servers() if server["id"] in {*self._servers["surviving"]}]
        except (OSError, LookupError):
            return False
        return len(mine) == SURVIVING

    def _run(self, command: str, *arguments: str) -> None:
        subprocess.run([_COMMANDS / command, "--config-file", self.folder / "gateway.conf", *arguments], check=True, capture_output=True)

    def _start(self, name: str, argv: list[str]) -> None:
        environment = {**os.environ, "SIGNALS": str(self.signals)}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def _kill(self, name: str) -> None:
        process = self._processes[name]
        process.kill()
        process.wait(10)
