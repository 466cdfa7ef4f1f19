"""What a relay does to connections, over real sockets."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from devstack.ports import find_free_port
from devstack.relay import TcpRelay


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets, one thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while content := connection.recv(65536):
                    connection.sendall(content)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def relay(echo_port: int) -> Iterator[TcpRelay]:
    with TcpRelay(echo_port) as relay:
        yield relay


def connect(relay: TcpRelay, timeout: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=timeout)


def receive(client: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        chunk = client.recv(65536)
        if not chunk:
            break
        content += chunk
    return content


def test_everything_passes_in_order_in_both_directions(relay: TcpRelay) -> None:
    content = bytes(range(256)) * 8192  # more than the relay keeps for one direction
    with connect(relay) as client:
        sender = threading.Thread(target=client.sendall, args=(content,))
        sender.start()
        assert receive(client, len(content)) == content
        sender.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize("directions", [{}, {"to_client": False}, {"to_server": False}])
def test_a_cut_link_is_silent_and_goes_on_where_it_was_when_it_is_healed(relay: TcpRelay, directions: dict[str, bool]) -> None:
    with connect(relay) as client:
        client.sendall(b"1")
        assert receive(client, 1) == b"1"
        client.settimeout(0.05)
        relay.cut(**directions)
        client.sendall(b"2")
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        relay.heal()
        assert receive(client, 1) == b"2"


def test_who_connects_to_a_cut_link_hears_nothing_until_it_is_healed(relay: TcpRelay) -> None:
    relay.cut()
    with connect(relay, timeout=0.05) as client:
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert relay.connections == 0
        client.settimeout(10)
        relay.heal()
        assert receive(client, 5) == b"hello"


def test_an_end_that_leaves_over_a_cut_link_is_missed_when_it_is_healed(relay: TcpRelay) -> None:
    with connect(relay) as client:
        client.sendall(b"1")
        assert receive(client, 1) == b"1"
        relay.cut()
    assert relay.connections == 1
    relay.heal()
    give_up = time.monotonic() + 10
    while relay.connections and time.monotonic() < give_up:
        threading.Event().wait(0.005)
    assert relay.connections == 0


def test_a_refusing_link_resets_connections_and_lets_nobody_in_until_it_is_healed(relay: TcpRelay) -> None:
    with connect(relay) as client:
        client.sendall(b"1")
        assert receive(client, 1) == b"1"
        relay.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(relay)
    relay.heal()
    with connect(relay) as client:
        client.sendall(b"2")
        assert receive(client, 1) == b"2"


def test_a_slow_link_delays_and_limits(relay: TcpRelay) -> None:
    relay.slow(0.02, rate=100_000)
    with connect(relay) as client:
        before = time.monotonic()
        client.sendall(b"x" * 5_000)
        receive(client, 5_000)
        assert time.monotonic() - before >= 0.02 * 2 + 0.05


def test_behind_a_server_that_does_not_run_connections_are_reset() -> None:
    with TcpRelay(find_free_port()) as relay, pytest.raises(ConnectionResetError), connect(relay) as client:
        client.recv(1)


def test_a_relay_over_which_nothing_passes_uses_no_processor(relay: TcpRelay) -> None:
    with connect(relay) as client:
        client.sendall(b"1")
        assert receive(client, 1) == b"1"
        relay.cut()
        client.sendall(b"2")
        waiting = connect(relay)
        before = time.process_time()
        threading.Event().wait(0.1)
        assert time.process_time() - before < 0.05
        waiting.close()
