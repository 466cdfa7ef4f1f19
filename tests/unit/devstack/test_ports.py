"""Ports for stacks that run side by side: who has found some begins to listen on them only later."""

import socket
from collections.abc import Callable

import pytest

from devstack.ports import BLOCK, Ports, find_free_base, find_free_port


def test_a_block_that_was_found_is_not_found_again() -> None:
    bases = [find_free_base() for _ in range(20)]
    assert len(set(bases)) == 20


def test_blocks_that_were_found_together_are_not_found_again_either() -> None:
    base = find_free_base(3)
    assert not {find_free_base() for _ in range(20)} & {base, base + BLOCK, base + 2 * BLOCK}


def test_a_block_in_which_something_listens_is_taken() -> None:
    base = find_free_base()
    with socket.create_server(("127.0.0.1", Ports(base).amqp)):
        assert Ports(base).list_taken() == [Ports(base).amqp]
    assert Ports(base).list_taken() == []


def test_a_single_port_that_was_found_is_not_found_again() -> None:
    ports = [find_free_port(socket.SOCK_DGRAM) for _ in range(20)]
    assert len(set(ports)) == 20


@pytest.mark.parametrize("find", [find_free_base, find_free_port])
def test_processes_of_one_run_of_the_tests_find_different_ones(find: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        found.append([find() for _ in range(20)])
    assert max(found[0]) < min(found[1])
