"""The whole agent, without a broker: what is kept of a crash does not wait for anybody to hear of it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compute_agent import service
from compute_agent.config import load_config
from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.base import DriverEvent, DriverEventKind
from compute_agent.drivers.fake import FakeHypervisor
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

    def listen(listener: Callable[[DriverEvent], None]) -> None:
        def take(event: DriverEvent) -> None:
            listener(event)
            if event.kind is DriverEventKind.BACKEND_BACK:
                listening.set()

        subscribe(take)

    monkeypatch.setattr(hypervisor, "subscribe", listen)
    thread = threading.Thread(target=agent.run)
    thread.start()
    assert listening.wait(PATIENCE)
    yield agent
    agent.request_stop("the test is over")
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_panicked_server_leaves_a_black_box_and_a_dump(agent: AgentService, hypervisor: FakeHypervisor, tmp_path: Path) -> None:
    wanted = {"server.panicked", "server.black_box", "server.host_dump"}
    seen: set[str] = set()
    told = threading.Event()

    def look() -> None:
        with agent._journal.transaction("test") as transaction:
            seen.update(row.event_type for row in transaction.list_outbox(1, 10**6))
        if wanted <= seen:
            told.set()

    agent._journal.on_new_events(look)
    server = hypervisor.make_server()
    agent._observer.enqueue_comparison(frozenset({server}))
    wait_until(lambda: is_known(agent, server), PATIENCE, "the agent to know the server")
    hypervisor.panic(server)
    assert told.wait(PATIENCE), f"only {seen}"
    assert len(list((tmp_path / "dumps").glob("*.kdump"))) == 1
    [box] = (tmp_path / "state" / "black_boxes").iterdir()
    assert {"diagnostics-after.json", "state.json"} <= {part.name for part in box.iterdir()}


def is_known(agent: AgentService, server: str) -> bool:
    """A panic of a server that is seen for the first time would be the state in which it is found, and no event."""
    with agent._journal.transaction("test") as transaction:
        return transaction.find_known_server(server) is not None
