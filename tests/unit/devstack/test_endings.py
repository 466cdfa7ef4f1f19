"""What is ended is ended whole, whatever fails meanwhile, and all that failed is told."""

import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from devstack import link as link_module
from devstack.clocks import ClockOffset
from devstack.deployment import AgentProgram
from devstack.link import Link
from devstack.rabbitmq_cluster import RabbitMQNodes
from devstack.relay import TcpRelay
from devstack.side_by_side import end_each
from devstack.stack import Stack
from devstack.steps import StepFailed


def test_each_is_ended_and_each_failure_is_told_by_its_name() -> None:
    ended = []
    problems = end_each({"one": Mock(side_effect=OSError("busy")), "two": lambda: ended.append("two"), "three": Mock(side_effect=KeyError)})
    assert ended == ["two"]
    assert problems == ["one: busy", "three: KeyError"]


def test_a_stack_that_goes_down_ends_every_part_and_tells_each_failure(tmp_path: Path) -> None:
    stack = Stack(tmp_path, agent_program=AgentProgram(("true",), {}))
    parts = {
        "crashcart-api": (stack.apis[0], "stop", RuntimeError("api stays")),
        "crashcart-engine": (stack.engines[0], "stop", None),
        "crashcart-agent": (stack.agents[0], "stop", TimeoutError("agent stays")),
        "RabbitMQ": (stack.brokers, "stop", StepFailed("broker stays")),
        "libvirtd": (stack.libvirtd, "end", None),
    }
    stops = {name: Mock(side_effect=error) for name, (_, _, error) in parts.items()}
    for name, (part, method, _) in parts.items():
        setattr(part, method, stops[name])
    broken, whole = Mock(close=Mock(side_effect=OSError("link stays"))), Mock()
    stack.links.update({"one": broken, "two": whole})
    with pytest.raises(StepFailed) as told:
        stack.down()
    for text in ("api stays", "agent stays", "broker stays", "link stays"):
        assert text in str(told.value)
    for stop in (*stops.values(), whole.close):
        stop.assert_called_once()
    assert not stack.links


def test_the_last_node_is_stopped_though_another_one_cannot_be(tmp_path: Path) -> None:
    nodes = RabbitMQNodes.__new__(RabbitMQNodes)
    nodes.nodes = [Mock(), Mock(stop=Mock(side_effect=TimeoutError("stays"))), Mock()]
    with pytest.raises(TimeoutError, match="stays"):
        nodes.stop()
    for node in nodes.nodes:
        node.stop.assert_called_once()  # type: ignore[attr-defined]


def test_a_link_that_cannot_be_made_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    make = TcpRelay
    threads = set(threading.enumerate())

    def make_first_only(port: int, *, address: str) -> TcpRelay:
        if port == 2:
            raise OSError("taken")
        return make(port, address=address)

    monkeypatch.setattr(link_module, "TcpRelay", make_first_only)
    with pytest.raises(OSError, match="taken"):
        Link([1, 2])
    assert not set(threading.enumerate()) - threads


def test_a_relay_that_cannot_listen_leaves_no_thread_nor_file() -> None:
    with pytest.raises(OSError, match="assign"):
        Link([1], "203.0.113.1")


def test_a_clock_is_right_again_when_its_stack_is_down(tmp_path: Path) -> None:
    clock = ClockOffset(tmp_path / "offset", 7.0)
    clock.reset()
    assert clock.seconds == 0.0
