"""A relay of UDP between clients and a server, both on loopback, which loses, repeats, delays and replaces what a rule tells it to."""

import ctypes
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

_LOOPBACK = "127.0.0.1"
_NOBODY = (_LOOPBACK, 1)
"""Where nothing comes from. The kernel tells whoever else sends to a socket that is connected to it that nothing listens there."""
_UNCONNECTED = bytes(16)
"""An address of the family AF_UNSPEC: connect(2) to it ends a connection."""


class Direction(Enum):
    """REQUEST: from a client to the server; ANSWER: back."""

    REQUEST = auto()
    ANSWER = auto()


@dataclass(frozen=True)
class Passing:
    """A packet on its way. ``number`` counts those of its direction since the rule was set, from 0."""

    direction: Direction
    number: int
    content: bytes


@dataclass(frozen=True)
class Delivery:
    """What goes on in its place, after ``delay`` seconds."""

    content: bytes
    delay: float = 0.0


Rule = Callable[[Passing], Sequence[Delivery]]
LOST: Sequence[Delivery] = ()


def pass_on(packet: Passing, times: int = 1, delay: float = 0.0) -> Sequence[Delivery]:
    """The packet itself, so often and so much later."""
    return [Delivery(packet.content, delay)] * times


class UdpRelay:
    """Relays between ``port`` and ``server_port``. The rule is asked for each packet, in the relay's thread; a port that is closed
    behind the relay is silent before it.

    ``came`` and ``went`` count packets of each direction since the rule was set.
    """

    def __init__(self, server_port: int) -> None:
        self._server = (_LOOPBACK, server_port)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Asked for by its number: the kernel lets go of one that it chose itself when a connection ends.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
            reserved.bind((_LOOPBACK, 0))
            self.port: int = reserved.getsockname()[1]
            for each in (reserved, self._front):  # only now: the kernel would choose one that another relay has
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._front.bind((_LOOPBACK, self.port))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._woken, self._waker = os.pipe()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._upstreams: dict[tuple[str, int], socket.socket] = {}
        self._late: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._lock = threading.Lock()
        self.set_rule(pass_on)
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def set_rule(self, rule: Rule) -> None:
        """What becomes of packets from now on; counting begins anew, and what was delayed is lost."""
        with self._lock:
            self._rule = rule
            self._late.clear()
            self.came: Counter[Direction] = Counter()
            self.went: Counter[Direction] = Counter()

    def close_port(self) -> None:
        """Nothing listens there until :meth:`open_port`, which sets the rule anew. Nobody else gets the port meanwhile."""
        self.set_rule(lambda packet: LOST)
        self._front.connect(_NOBODY)

    def open_port(self) -> None:
        self.set_rule(pass_on)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.connect(self._front.fileno(), _UNCONNECTED, len(_UNCONNECTED)) != 0:
            raise OSError(ctypes.get_errno(), "the relay's port is not open again")

    def close(self) -> None:
        os.close(self._waker)
        self._thread.join()
        for upstream in (*self._upstreams.values(), self._front):
            upstream.close()
        os.close(self._woken)
        self._selector.close()

    def _relay(self) -> None:
        while True:
            for key, _ in self._selector.select(self._seconds_to_next()):
                if key.fd == self._woken:
                    return
                if key.data is None:
                    content, client = self._front.recvfrom(65536)
                    self._take(Direction.REQUEST, content, client)
                else:
                    self._take_answer(key.data)
            self._send_late()

    def _take_answer(self, client: tuple[str, int]) -> None:
        try:
            content = self._upstreams[client].recv(65536)
        except ConnectionRefusedError:
            return
        self._take(Direction.ANSWER, content, client)

    def _take(self, direction: Direction, content: bytes, client: tuple[str, int]) -> None:
        with self._lock:
            number = self.came[direction]
            self.came[direction] += 1
            for delivery in self._rule(Passing(direction, number, content)):
                self._deliver(direction, delivery, client)

    def _deliver(self, direction: Direction, delivery: Delivery, client: tuple[str, int]) -> None:
        def send() -> None:
            self.went[direction] += 1
            if direction is Direction.ANSWER:
                self._front.sendto(delivery.content, client)
                return
            try:
                self._get_upstream(client).send(delivery.content)
            except ConnectionRefusedError:
                self._get_upstream(client).send(delivery.content)  # that was said of an earlier packet; this one was not sent

        if delivery.delay:
            heapq.heappush(self._late, (time.monotonic() + delivery.delay, next(self._ticket), send))
        else:
            send()

    def _get_upstream(self, client: tuple[str, int]) -> socket.socket:
        if client not in self._upstreams:
            self._upstreams[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._upstreams[client].connect(self._server)
            self._selector.register(self._upstreams[client], selectors.EVENT_READ, client)
        return self._upstreams[client]

    def _seconds_to_next(self) -> float | None:
        with self._lock:
            return max(0.0, self._late[0][0] - time.monotonic()) if self._late else None

    def _send_late(self) -> None:
        with self._lock:
            while self._late and self._late[0][0] <= time.monotonic():
                heapq.heappop(self._late)[2]()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port where nothing listens and that nobody else gets: not even who sends to it, from a port that the kernel chose."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind((_LOOPBACK, 0))
        held.connect(_NOBODY)
        yield held.getsockname()[1]


@contextmanager
def relaying(server_port: int) -> Iterator[UdpRelay]:
    relay = UdpRelay(server_port)
    try:
        yield relay
    finally:
        relay.close()
