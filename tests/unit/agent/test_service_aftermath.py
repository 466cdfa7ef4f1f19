"""The whole agent, without a broker: what is kept of a crash does not wait for anybody to hear of it."""

import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from compute_agent import service
from compute_agent.config import load_config
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.journal import OutboxRow
from compute_agent.service import AgentService
from devstack.services import wait_until

PATIENCE = 20.0


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> FakeHypervisor:
    hypervisor = FakeHypervisor(SystemClock())
    monkeypatch.setattr(service, "load_driver", lambda *_: hypervisor.driver)
    return hypervisor


@pytest.fixture
def agent(tmp_path: Path, hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentService]:
    path = tmp_path / "agent.conf"
    path.write_text(
        f"[DEFAULT]\nhost = h1\ntransport_url = rabbit://u:p@127.0.0.1:1/\n"
        f"[agent]\ndriver = fake\nstate_path = {tmp_path / 'state'}\n"
        f"[host_dump]\ndirectory = {tmp_path / 'dumps'}\nafter_panic = true\nmin_free_mib = 0\n"
    )
    agent = AgentService(load_config(["--config-file", str(path)]), SystemClock())
    listening = threading.Event()
    subscribe = hypervisor.subscribe

    def listen(listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        def take(event: DriverEvent) -> None:
            listener(event)
            if event.kind is DriverEventKind.BACKEND_BACK:
                listening.set()

        subscribe(take, cursors)

    monkeypatch.setattr(hypervisor, "subscribe", listen)
    thread = threading.Thread(target=agent.run)
    thread.start()
    assert listening.wait(PATIENCE)
    yield agent
    agent.request_stop("the test is over")
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_panicked_server_leaves_a_black_box_and_a_dump(agent: AgentService, hypervisor: FakeHypervisor, tmp_path: Path) -> None:
    wait_told = watch_for(agent, {"server.panicked", "server.black_box", "server.host_dump"})
    hypervisor.panic(make_known(agent, hypervisor))
    wait_told()
    assert len(list((tmp_path / "dumps").glob("*.kdump"))) == 1
    [box] = (tmp_path / "state" / "black_boxes").iterdir()
    with tarfile.open(box) as parts:
        assert {"diagnostics-after.json", "state.json"} <= set(parts.getnames())


def test_a_watchdogs_dump_is_looked_for_and_a_panic_by_its_nmi_leaves_a_black_box(agent: AgentService, hypervisor: FakeHypervisor) -> None:
    wait_told = watch_for(agent, {"server.panicked", "server.watchdog.outcome", "server.black_box"})
    dumping, panicking = (
        make_known(agent, hypervisor, watchdog=WatchdogDevice(model="i6300esb", expiry_action=action)) for action in ("dump", "inject-nmi")
    )
    hypervisor.fire_watchdog(dumping)
    hypervisor.fire_watchdog(panicking)
    told = wait_told()
    (outcome,) = [row for row in told if row.event_type == "server.watchdog.outcome" and row.server == dumping]
    assert outcome.payload["dump_path"] == f"/var/lib/fake/{dumping}-1"
    (box,) = [row for row in told if row.event_type == "server.black_box"]
    assert (box.server, box.payload["cause"], box.payload["action_id"]) == (panicking, "server.panicked", None)


def watch_for(agent: AgentService, wanted: set[str]) -> Callable[[], list[OutboxRow]]:
    """The returned function waits until events of all these types are in the journal, and gives all events."""
    rows: list[OutboxRow] = []
    told = threading.Event()

    def look(patience: float = 0.0) -> None:
        with agent._journal.transaction("test") as transaction:
            rows[:] = transaction.list_outbox(1, 10**6)
        if wanted <= {row.event_type for row in rows}:
            told.set()

    def wait() -> list[OutboxRow]:
        assert told.wait(PATIENCE), f"only {[row.event_type for row in rows]}"
        return rows

    agent._journal.on_new_events(look)
    return wait


def make_known(agent: AgentService, hypervisor: FakeHypervisor, **fields: Any) -> str:
    """A panic of a server that is seen for the first time would be the state in which it is found, and no event."""
    server = hypervisor.make_server(**fields)
    agent._observer.enqueue_comparison(frozenset({server}))
    wait_until(lambda: is_known(agent, server), PATIENCE, "the agent to know the server")
    return server


def is_known(agent: AgentService, server: str) -> bool:
    with agent._journal.transaction("test") as transaction:
        return transaction.find_known_server(server) is not None
