"""Which ports of 127.0.0.1 one stack uses: a block of ten from its base, so that stacks run side by side."""

from __future__ import annotations

import os
import random
import re
import socket
from collections import deque
from dataclasses import dataclass

DEFAULT_BASE = 8780
BLOCK = 10
# Below Linux's ephemeral range (from 32768), so that no outgoing connection takes a port of ours by chance.
_SEARCH_FIRST, _SEARCH_LAST = 20000, 32000
# Single ports, of what a stack has many of.
_SINGLE_FIRST, _SINGLE_LAST = 12000, 20000
_SEARCH_TRIES = 200
_PARTS = 8
_FOUND: deque[int] = deque(maxlen=64)
"""Bases of blocks, and single ports, that were found lately."""


@dataclass(frozen=True)
class Ports:
    """The ports of one stack, all derived from `base`: one block, or several for a stack that has several of some part."""

    base: int
    blocks: int = 1

    def __post_init__(self) -> None:
        highest = 65535 - BLOCK * self.blocks
        if not 1024 <= self.base <= highest:
            raise ValueError(f"port {self.base}: give one between 1024 and {highest}")

    def get_block(self, number: int) -> Ports:
        """One of its blocks by itself, from 0."""
        if not 0 <= number < self.blocks:
            raise ValueError(f"there are {self.blocks} blocks of ports, from 0; there is none {number}")
        return Ports(self.base + BLOCK * number)

    @property
    def api(self) -> int:
        """HTTP of crashcart-api."""
        return self.base

    @property
    def amqp(self) -> int:
        """AMQP of the private broker."""
        return self.base + 1

    @property
    def epmd(self) -> int:
        """Erlang's port mapper, the broker's own."""
        return self.base + 2

    @property
    def dist(self) -> int:
        """Erlang distribution of the broker, by which rabbitmqctl reaches it."""
        return self.base + 3

    @property
    def database(self) -> int:
        """The private PostgreSQL or MariaDB, of a stack that has one."""
        return self.base + 4

    @property
    def stream(self) -> int:
        """The engine's event stream."""
        return self.base + 5

    @property
    def amqps(self) -> int:
        """AMQP over TLS, of a broker that has a certificate."""
        return self.base + 6

    @property
    def ctl_dist(self) -> range:
        """Erlang distribution of rabbitmqctl itself, one port per call that runs at the same time."""
        return range(self.base + 7, self.base + BLOCK)

    def list_all(self) -> list[int]:
        """Every port of its blocks."""
        return list(range(self.base, self.base + BLOCK * self.blocks))

    def list_taken(self) -> list[int]:
        """Those on which something listens now."""
        return [port for port in self.list_all() if not _is_free(port)]


def find_free_base(blocks: int = 1) -> int:
    """Base of so many blocks in which nothing listens; raises OSError when none was found in many tries.

    Whoever has found some begins to listen on them only later: processes of pytest-xdist look each in a part of its own, and what this one
    found lately is left out.
    """
    first, last = _find_own_part(_SEARCH_FIRST, _SEARCH_LAST)
    for _ in range(_SEARCH_TRIES):
        base = random.randrange(first, last - BLOCK * (blocks - 1), BLOCK)
        ports = Ports(base, blocks)
        if not any(block in _FOUND for block in ports.list_all()) and not ports.list_taken():
            _FOUND.extend(ports.list_all()[::BLOCK])
            return base
    raise OSError(f"no block of {BLOCK * blocks} free ports between {_SEARCH_FIRST} and {_SEARCH_LAST} on 127.0.0.1")


def _find_own_part(first: int, last: int) -> tuple[int, int]:
    """Of all from ``first`` on; a process that is none of several has them all."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    if worker is None:
        return first, last
    size = (last - first) // _PARTS
    first += int(worker.group(1)) % _PARTS * size
    return first, first + size


def find_free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port outside of every block in which nothing listens with ``kind``; raises OSError when none was found in many tries.

    As in :func:`find_free_base`, each process of several looks in a part of its own.
    """
    first, last = _find_own_part(_SINGLE_FIRST, _SINGLE_LAST)
    for _ in range(_SEARCH_TRIES):
        port = random.randrange(first, last)
        if port in _FOUND:
            continue
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _FOUND.append(port)
        return port
    raise OSError(f"no free port between {first} and {last} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
