"""What tests of the store share: rows to begin with, and a host that keeps an inventory and tells it."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from api_gateway.store import Connection, Store, heartbeats, outbox
from api_gateway.store.actions import ActionRow
from api_gateway.store.heartbeats import HeartbeatOutcome
from compute_agent.contract import versions
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import (
    Capabilities,
    Departure,
    Heartbeat,
    InventoryReport,
    PowerState,
    RemovedServer,
    Server,
    hash_inventory,
)
from compute_agent.contract.notifications import Notification
from tests.databases import PATIENT

SERVER = "11111111-2222-4333-8444-555555555555"
OTHER_SERVER = "66666666-7777-4888-8999-000000000000"


def build_action(clock: Clock, **changes: Any) -> ActionRow:
    """An accepted crash dump of SERVER on host ``a`` with 30 s to go."""
    now = clock.now()
    values: dict[str, Any] = {
        "id": f"req-{uuid.uuid4()}",
        "kind": "trigger_crash_dump",
        "server": SERVER,
        "server_generation": 1,
        "host": "a",
        "project": "demo",
        "user": "admin",
        "state": "accepted",
        "accepted_at": now,
        "deadline": now + timedelta(seconds=30),
        "updated_at": now,
    }
    return ActionRow(**(values | changes))


def build_event(message_id: str, event_type: str = "server.started", **payload: Any) -> Notification:
    """An event as it was read from the broker."""
    return Notification(
        message_id=message_id,
        event_type=event_type,
        publisher_id="compute_agent.a",
        severity="info",
        timestamp="2026-01-01 00:00:00.000000",
        payload={"version": "1.0", "occurred_at": "2026-01-01T00:00:00Z", **payload},
    )


def list_outbox_events(c: Connection, event_type: str | None = None) -> list[outbox.OutboxRow]:
    return [row for row in outbox.list_unsent(c) if event_type in (None, row.event_type)]


class FakeHost:
    """A host whose agent reports what is in ``servers``, either all of it or what changed since its last heartbeat."""

    def __init__(self, store: Store, clock: Clock, name: str) -> None:
        self._store = store
        self._clock = clock
        self.claimed_twice: tuple[str, ...] = ()
        """Servers of which its last heartbeat began a conflict."""
        self.name = name
        self.journal_id = f"journal-{name}"
        self.incarnation = 1
        self.number = 0
        self.revision = 0
        self.servers: dict[str, Server] = {}
        self._told: dict[str, Server] = {}
        self._told_revision = 0

    def put(self, server: str = SERVER, power_state: PowerState = PowerState.RUNNING, **changes: Any) -> None:
        """The host has this server now, in this state."""
        now = self._clock.now()
        values: dict[str, Any] = {
            "id": server,
            "name": "web",
            "project": "demo",
            "user": "admin",
            "power_state": power_state,
            "state_at": now,
            "generation": 1,
            "instance_name": "instance-00000001",
            "vcpus": 2,
            "memory_mib": 2048,
            "created_at": now,
        }
        self.servers[server] = Server(**(values | changes))

    def build_heartbeat(
        self, *, full: bool = False, readable: bool = True, stopping: bool = False, departures: dict[str, Departure] | None = None
    ) -> Heartbeat:
        """The next one; a difference unless ``full``."""
        self.number += 1
        changed = {key: server for key, server in self.servers.items() if full or self._told.get(key) != server}
        gone = self._told.keys() - self.servers.keys()
        base = self._told_revision
        if readable:
            self.revision += 1 if changed or gone else 0
            self._told, self._told_revision = dict(self.servers), self.revision
        said = departures or {}
        return Heartbeat(
            host=self.name,
            release=versions.RELEASE,
            rpc_version=versions.RPC_API_VERSION,
            event_version=versions.EVENT_VERSION,
            journal_id=self.journal_id,
            incarnation=self.incarnation,
            number=self.number,
            sent_at=self._clock.now(),
            interval=30.0,
            stopping=stopping,
            driver_bound=20.0,
            capabilities=Capabilities(driver="fake", inject_nmi=True, diagnostics=False, watchdog=False, events=True),
            inventory=InventoryReport(
                readable=readable,
                full=full and readable,
                revision=self.revision,
                base_revision=base,
                hash=hash_inventory({key: server.generation for key, server in self.servers.items()}),
                servers=tuple(changed.values()) if readable else (),
                removed=tuple(RemovedServer(id=key, departure=said.get(key, Departure.GONE)) for key in sorted(gone)) if readable else (),
            ),
        )

    def deliver(self, heartbeat: Heartbeat) -> HeartbeatOutcome:
        with self._store.write() as c:
            taken = heartbeats.apply_heartbeats(c, [heartbeat], self._clock.now())
        self.claimed_twice = tuple(claimed.server for claimed in taken.claimed_twice)
        (outcome,) = taken.outcomes
        return outcome

    def beat(self, **options: Any) -> HeartbeatOutcome:
        """Tell it and have it taken in."""
        return self.deliver(self.build_heartbeat(**options))

    def remove(self, server: str, departure: Departure) -> HeartbeatOutcome:
        """The server leaves, and the next heartbeat says why."""
        del self.servers[server]
        return self.beat(departures={server: departure})


def at(clock: Clock, seconds: float) -> datetime:
    """So many seconds from now."""
    return clock.now() + timedelta(seconds=seconds)


def run_behind(store: Store, first: Callable[[Connection], object], second: Callable[[Connection], object]) -> object:
    """What ``second`` brings, begun when ``first`` is written and not committed; the store must be PATIENT."""

    def write() -> object:
        with store.write() as c:
            return second(c)

    with ThreadPoolExecutor(1) as pool:
        with store.write() as c:
            first(c)
            begun = pool.submit(write)
            with pytest.raises(TimeoutError):
                begun.result(timeout=0.2)
        return begun.result(timeout=PATIENT)
