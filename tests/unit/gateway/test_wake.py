"""Waking the dispatcher: quick when it listens, harmless when it does not."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_gateway.wake import WakeReceiver, WakeSender


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "dispatcher.sock"


@pytest.fixture
def receiver(path: Path) -> Iterator[WakeReceiver]:
    receiver = WakeReceiver(path)
    yield receiver
    receiver.close()


@pytest.fixture
def sender(path: Path) -> Iterator[WakeSender]:
    sender = WakeSender(path)
    yield sender
    sender.close()


def test_a_datagram_ends_the_wait(receiver: WakeReceiver, sender: WakeSender) -> None:
    assert sender.wake()
    assert receiver.wait(10)


def test_a_wait_without_a_datagram_ends_at_its_timeout(receiver: WakeReceiver) -> None:
    assert not receiver.wait(0)


def test_many_datagrams_make_one_wake_up(receiver: WakeReceiver, sender: WakeSender) -> None:
    for _ in range(5):
        sender.wake()
    assert receiver.wait(10)
    assert not receiver.wait(0)


def test_a_sender_without_a_receiver_neither_fails_nor_waits(sender: WakeSender) -> None:
    assert not sender.wake()


def test_a_sender_does_not_wait_for_a_receiver_that_does_not_read(receiver: WakeReceiver, sender: WakeSender) -> None:
    """An engine that hangs must not hang the API: once the socket's buffer is full, wake-ups are dropped."""
    assert not all(sender.wake() for _ in range(100_000))
    assert receiver.wait(0)


def test_a_sender_finds_a_receiver_that_was_started_later(path: Path, sender: WakeSender) -> None:
    assert not sender.wake()
    receiver = WakeReceiver(path)
    assert sender.wake()
    assert receiver.wait(10)
    receiver.close()


def test_the_path_left_by_a_killed_engine_is_taken_over(path: Path, sender: WakeSender) -> None:
    killed = WakeReceiver(path)
    following = WakeReceiver(path)
    sender.wake()
    assert following.wait(10)
    killed.close()
    assert sender.wake(), "closing the old one must not take the path from the new one"
    following.close()
    assert not path.exists()


def test_a_thread_of_the_same_process_ends_the_wait(receiver: WakeReceiver) -> None:
    thread = threading.Thread(target=receiver.wake)
    thread.start()
    assert receiver.wait(10)
    thread.join()


def test_a_path_that_cannot_be_bound_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        WakeReceiver(tmp_path / "taken")


def test_without_a_path_only_the_process_itself_wakes_the_dispatcher() -> None:
    receiver = WakeReceiver(None)
    receiver.wake()
    assert receiver.wait(10)
    receiver.close()
