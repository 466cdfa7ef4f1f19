"""The network between one process of a stack and one of its servers, which may have several addresses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from devstack.relay import TcpRelay


class Link:
    """One relay for each of the ports behind it, all in the same state; see `TcpRelay` for what its methods do.

    :param address: this machine's, where the process connects
    """

    def __init__(self, ports: Sequence[int], address: str = "127.0.0.1") -> None:
        self.address = address
        with ExitStack() as opened:  # none is left when one of them cannot be opened
            self.relays = [opened.enter_context(TcpRelay(port, address=address)) for port in ports]
            self._relays = opened.pop_all()

    @property
    def ports(self) -> list[int]:
        """Where the process connects, in the order of the ports behind."""
        return [relay.port for relay in self.relays]

    def cut(self, *, to_server: bool = True, to_client: bool = True) -> None:
        for relay in self.relays:
            relay.cut(to_server=to_server, to_client=to_client)

    def slow(self, delay: float, rate: float | None = None) -> None:
        for relay in self.relays:
            relay.slow(delay, rate)

    def refuse(self) -> None:
        for relay in self.relays:
            relay.refuse()

    def reset_connections(self) -> None:
        for relay in self.relays:
            relay.reset_connections()

    def heal(self) -> None:
        for relay in self.relays:
            relay.heal()

    def close(self) -> None:
        self._relays.close()
