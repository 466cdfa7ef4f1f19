"""Who hears that a device is gone: the call that waits for it, or else the thread that puts back."""

import queue
import threading
from collections.abc import Iterator

import pytest

from compute_agent.drivers.libvirt.removals import Removals

SERVER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000001"


@pytest.fixture
def suspects() -> "queue.SimpleQueue[str]":
    return queue.SimpleQueue()


@pytest.fixture
def removals(suspects: "queue.SimpleQueue[str]") -> Iterator[Removals]:
    def put_back(server: str) -> None:
        suspects.put(server)
        if server == "broken":
            raise RuntimeError("cannot")

    removals = Removals()
    removals.open(put_back)
    yield removals
    removals.close()


def test_who_waits_is_told_and_nobody_else(removals: Removals, suspects: "queue.SimpleQueue[str]") -> None:
    with removals.expect(SERVER, "watchdog0") as expected:
        threading.Thread(target=removals.note, args=(SERVER, "watchdog0"), kwargs={"is_gone": True}).start()
        assert expected.wait(60)
    with removals.expect(SERVER, "watchdog0") as expected:
        removals.note(SERVER, "watchdog0", is_gone=False)
        assert not expected.wait(5), "its guest refused, which is known at once"
    assert suspects.empty()


def test_a_removal_that_nobody_waits_for_is_looked_after(removals: Removals, suspects: "queue.SimpleQueue[str]") -> None:
    removals.note(SERVER, "watchdog0", is_gone=False)
    removals.note("broken", "watchdog0", is_gone=True)
    removals.suspect(SERVER)
    assert [suspects.get(timeout=60), suspects.get(timeout=60)] == ["broken", SERVER], "one failure does not end it"


def test_of_one_server_one_change_is_made_at_a_time(removals: Removals) -> None:
    entered = threading.Event()

    def change() -> None:
        with removals.turn(SERVER):
            entered.set()

    with removals.turn(SERVER):
        thread = threading.Thread(target=change)
        thread.start()
        with removals.turn("another"):
            assert not entered.is_set()
    thread.join(60)
    assert entered.is_set()
