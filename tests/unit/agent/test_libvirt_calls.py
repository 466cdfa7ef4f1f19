"""Connections for calls that may hang: one call at a time on each, and nobody waits for a stuck one."""

import queue
from collections.abc import Iterator
from contextlib import ExitStack

import libvirt
import pytest

from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt import calls as calls_module
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.link import Address, KeepAlive
from tests.unit.agent.libvirt_fakes import make_error


class FakeLink:
    """A virConnect that lives until it is told otherwise."""

    def __init__(self) -> None:
        self.is_live = True
        self.is_closed = False

    def setKeepAlive(self, interval: int, count: int) -> None:
        pass

    def isAlive(self) -> bool:
        return self.is_live

    def close(self) -> None:
        self.is_closed = True


class FakeMain:
    """The main connection: there, or away."""

    def __init__(self) -> None:
        self.is_away = False

    def get(self) -> None:
        if self.is_away:
            raise BackendUnavailable(None, "lost libvirt")


@pytest.fixture
def main() -> FakeMain:
    return FakeMain()


@pytest.fixture
def errors() -> "queue.SimpleQueue[libvirt.libvirtError]":
    """What the next openings raise."""
    return queue.SimpleQueue()


@pytest.fixture
def calls(main: FakeMain, errors: "queue.SimpleQueue[libvirt.libvirtError]", monkeypatch: pytest.MonkeyPatch) -> Iterator[CallConnections]:
    def open_link(uri: str) -> FakeLink:
        if not errors.empty():
            raise errors.get()
        return FakeLink()

    monkeypatch.setattr(libvirt, "open", open_link)
    monkeypatch.setattr(calls_module, "_RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(calls_module, "_LONGEST_WAIT", 60.0)
    calls = CallConnections(Address("qemu:///system", KeepAlive(3, 3)), main)
    calls.open()
    yield calls
    calls.close()


def test_no_two_calls_share_a_connection(calls: CallConnections) -> None:
    """Eight stuck ones leave the ninth untouched."""
    with ExitStack() as stack:
        borrowed = [stack.enter_context(calls.borrow()) for _ in range(9)]
        assert len({id(link) for link in borrowed}) == 9


def test_a_connection_that_broke_is_not_lent_again(calls: CallConnections) -> None:
    with calls.borrow() as broken:
        broken.is_live = False
    assert broken.is_closed
    with ExitStack() as stack:
        assert broken not in [stack.enter_context(calls.borrow()) for _ in range(4)]


def test_one_that_broke_while_idle_is_passed_over(calls: CallConnections) -> None:
    """After libvirtd was restarted all idle ones are dead."""
    with ExitStack() as stack:
        links = [stack.enter_context(calls.borrow()) for _ in range(4)]
    for link in links:
        link.is_live = False
    with calls.borrow() as link:
        assert link.is_live


def test_nothing_is_lent_while_libvirt_is_away(calls: CallConnections, main: FakeMain) -> None:
    main.is_away = True
    with pytest.raises(BackendUnavailable, match="lost libvirt"), calls.borrow():
        pytest.fail("lent")


def test_opening_is_tried_again_after_a_failure(calls: CallConnections, errors: "queue.SimpleQueue[libvirt.libvirtError]") -> None:
    for _ in range(3):
        errors.put(make_error(libvirt.VIR_ERR_SYSTEM_ERROR))
    with ExitStack() as stack:
        assert all(stack.enter_context(calls.borrow()).is_live for _ in range(4))
    assert errors.empty()


def test_waiting_for_a_connection_is_bounded(main: FakeMain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one at a frozen libvirtd has no bound: then nothing is sent, and it is said so."""
    monkeypatch.setattr(calls_module, "_LONGEST_WAIT", 0.01)
    never_opened = CallConnections(Address("qemu:///system", KeepAlive(3, 3)), main)
    with pytest.raises(BackendUnavailable, match="gave no connection"), never_opened.borrow():
        pytest.fail("lent")


def test_closing_lets_go_of_idle_ones_at_once_and_of_lent_ones_when_they_come_back(calls: CallConnections) -> None:
    with calls.borrow() as link:
        calls.close()
        assert not link.is_closed
    assert link.is_closed
