"""The fence against a second agent of the same name: an exclusive queue, which only one connection at a time can have."""

import logging

from amqp.exceptions import ResourceLocked

from compute_agent.contract.broker import Link
from compute_agent.contract.publisher import LinkOpener
from compute_agent.contract.topics import build_lock_name

LOG = logging.getLogger(__name__)


class HostTaken(Exception):
    """Another connection holds the name of this host."""


class HostLock:
    """Holds the queue ``compute_agent_lock.HOST``. One thread uses it."""

    def __init__(self, address: LinkOpener, host: str) -> None:
        self._address = address
        self._host = host
        self._link: Link | None = None

    def acquire(self) -> None:
        """Take the lock, on a fresh connection.

        :raises HostTaken: another agent has it, or the broker has not yet noticed the death of an earlier connection.
        :raises BROKER_ERRORS: the broker is away.
        """
        self.drop()
        self._link = self._address.open_link()
        try:
            channel = self._link.channel()
            channel.queue_declare(queue=build_lock_name(self._host), exclusive=True, auto_delete=True, durable=False)
        except ResourceLocked as error:
            self.drop()
            raise HostTaken(
                f"another agent serves host {self._host!r} at broker {self._address.label}: stop it, or give this one another name "
                "([DEFAULT] host)"
            ) from error

    def keep(self, timeout: float) -> None:
        """Hold the lock for ``timeout`` seconds at most, answering the broker's heartbeats.

        :raises BROKER_ERRORS: the connection is lost, and the lock with it.
        """
        if self._link is None:
            raise ConnectionError("the lock is not held")
        try:
            self._link.drain_events(timeout=timeout)
        except TimeoutError:
            pass
        self._link.heartbeat_tick()

    def drop(self) -> None:
        """Let go of the lock, if it is held."""
        if self._link is not None:
            self._link.collect()
        self._link = None
