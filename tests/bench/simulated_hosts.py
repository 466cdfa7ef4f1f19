"""Hosts that exist as messages alone: what their agents would tell, in the contract's own words, without journals, drivers and threads."""

from __future__ import annotations

import uuid
from collections import deque
from datetime import UTC, datetime
from typing import Any

from compute_agent.contract import versions
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.models import Capabilities, EventRange, Heartbeat, InventoryReport, PowerState, Server, hash_inventory
from compute_agent.contract.notifications import HEARTBEAT_TYPE, Notification, format_timestamp
from compute_agent.contract.topics import Severity

_KEPT = 400
"""Events of a host that can be sent again."""
_CAPABILITIES = Capabilities(driver="fake", inject_nmi=True, diagnostics=True, watchdog=True, events=True, resume=True)


class SimulatedHost:
    """One host, all of whose servers run. Every method makes what is to be published; nothing is sent here."""

    def __init__(self, number: int, servers: int, interval: float) -> None:
        """:param interval: seconds between heartbeats, as told in them"""
        self.name = f"compute-{number:05}"
        self.journal_id = uuid.uuid5(uuid.NAMESPACE_URL, f"journal/{self.name}").hex
        self._interval = interval
        self._began = datetime.now(UTC)
        self._servers = {server.id: server for server in (self._build_server(place) for place in range(servers))}
        self._hash = hash_inventory(dict.fromkeys(self._servers, 1))
        self._changed: set[str] = set()
        self._revision = self._number = self._sequence = 0
        self._kept: deque[Notification] = deque(maxlen=_KEPT)
        self.ids = list(self._servers)

    def _build_server(self, place: int) -> Server:
        return Server(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.name}/{place}")),
            name=f"web-{place}",
            project="demo",
            user="owner",
            power_state=PowerState.RUNNING,
            state_at=self._began,
            generation=1,
            instance_name=f"instance-{place:08x}",
            vcpus=2,
            memory_mib=2048,
            created_at=self._began,
            started_at=self._began,
        )

    def beat(self, *, full: bool) -> Notification:
        """A heartbeat with all servers, or with those that have changed since the one before."""
        changed, self._changed = self._changed, set()
        base = self._revision
        self._revision += bool(changed)
        self._number += 1
        servers = tuple(self._servers.values()) if full else tuple(self._servers[server] for server in sorted(changed))
        now = datetime.now(UTC)
        heartbeat = Heartbeat(
            host=self.name,
            release=versions.RELEASE,
            rpc_version=versions.RPC_API_VERSION,
            event_version=versions.EVENT_VERSION,
            journal_id=self.journal_id,
            incarnation=1,
            number=self._number,
            sent_at=now,
            interval=self._interval,
            driver_bound=5.0,
            capabilities=_CAPABILITIES,
            inventory=InventoryReport(
                readable=True, full=full, revision=self._revision, base_revision=base, hash=self._hash, servers=servers
            ),
        )
        return self._wrap(HEARTBEAT_TYPE, Severity.INFO, heartbeat.to_wire(), now)

    def tell_up(self) -> Notification:
        return self.tell("agent.up", None, release=versions.RELEASE, journal_id=self.journal_id, incarnation=1, reason="started")

    def tell_state(self, server: str, event_type: str, power_state: PowerState, reason: str, **fields: Any) -> Notification:
        """A server has another state from now on; its next heartbeat says so too."""
        told = self.tell(event_type, server, power_state=power_state, reason=reason, **fields)
        at = datetime.fromisoformat(told.payload["occurred_at"])
        self._servers[server] = self._servers[server].model_copy(
            update={"power_state": power_state, "state_reason": reason, "state_at": at}
        )
        self._changed.add(server)
        return told

    def tell_crash_dump(self, action: dict[str, Any]) -> list[Notification]:
        """All events of one whose guest reboots at once."""
        about = {"action_id": action["id"], "kind": action["kind"]}
        server = action["server"]
        whose = {"project": action.get("project"), "user": action.get("user")}
        text = "The guest rebooted after the NMI."
        now = datetime.now(UTC).isoformat()
        ended = {"ending": "succeeded", "code": "signal_delivered", "reason": "The driver said that the NMI was delivered."}
        times = {"decided_by": "agent", "started_at": now, "signalled_at": now}
        observed = {"observation": "guest_rebooted", "final": True, "observed_at": now, "text": text}
        return [
            self.tell("action.received", server, **about, **whose, deadline=action["deadline"]),
            self.tell("action.started", server, **about),
            self.tell("action.ended", server, **about, **whose, **ended, **times),
            self.tell_state(server, "server.rebooted", PowerState.RUNNING, "reset", action_id=action["id"]),
            self.tell("action.observed", server, **about, **observed),
        ]

    def tell(self, event_type: str, server: str | None, **body: Any) -> Notification:
        """The next event of this host's journal."""
        self._sequence += 1
        now = datetime.now(UTC)
        payload = {
            "version": versions.EVENT_VERSION,
            "server": server,
            "host": self.name,
            "epoch": self.journal_id,
            "sequence": self._sequence,
            "occurred_at": now.isoformat(),
            **body,
        }
        told = self._wrap(event_type, EVENT_TYPES[event_type].severity, payload, now)
        self._kept.append(told)
        return told

    def list_kept(self, events: EventRange) -> list[Notification]:
        """What is asked for again."""
        return [told for told in self._kept if events.first <= told.payload["sequence"] <= events.last]

    def _wrap(self, event_type: str, severity: Severity, payload: dict[str, Any], at: datetime) -> Notification:
        return Notification(
            message_id=uuid.uuid4().hex,
            event_type=event_type,
            publisher_id=f"compute_agent.{self.name}",
            severity=severity,
            timestamp=format_timestamp(at),
            payload=payload,
        )
