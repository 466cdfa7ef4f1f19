"""Which servers this host has, as its heartbeats say it.

The journal's known servers are the inventory; the driver's list is compared with them at every heartbeat. Arrivals and new names
are taken over here. A state or a departure is left to the events that tell of it: only what still differs at the next heartbeat was
missed, and is handed to the observer. A hypervisor that cannot be read makes the inventory unavailable, never empty.
"""

import logging
import threading
from datetime import timedelta

from compute_agent.contract.clock import Clock
from compute_agent.contract.models import Departure, Heartbeat, InventoryReport, PowerState, RemovedServer, Server, hash_inventory
from compute_agent.contract.versions import EVENT_VERSION, RELEASE, RPC_API_VERSION
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.journal import Journal, JournalTransaction
from compute_agent.survey import Survey, compare
from compute_agent.watchdog_drift import WatchdogDrift
from compute_agent.watchdog_outcomes import is_paused_by_watchdog, shows_unseen_firing

LOG = logging.getLogger(__name__)

_REVISION_BITS = 24
"""Revisions of one incarnation: those of an earlier one can never be taken for a base."""
DEPARTURE_KEEP = timedelta(days=7)
"""How long a full report goes on to say why a server left: a gateway that was away for longer takes it for gone."""
MOST_DEPARTURES_TOLD = 1000
MOST_DEPARTED_KEPT = 10_000


class Inventory:
    """Reads, compares and reports. One thread uses it; only :meth:`request_full` may come from others.

    :param default_project: owner of servers whose metadata name none
    :param interval: seconds between heartbeats, told in each of them
    :param inventory_interval: seconds after which a heartbeat carries all servers again
    :param drift: shown each list that was read; None: nobody looks for watchdogs that somebody else changed
    """

    def __init__(
        self,
        journal: Journal,
        driver: Driver,
        clock: Clock,
        *,
        default_project: str = "demo",
        interval: float = 30.0,
        inventory_interval: float = 600.0,
        drift: WatchdogDrift | None = None,
    ) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock
        self._default_project = default_project
        self._interval = interval
        self._inventory_interval = inventory_interval
        self._drift = drift
        self._full_wanted = threading.Event()
        self._full_wanted.set()
        self._full_due = clock.monotonic()
        self._readable = False
        self._suspects: frozenset[tuple[str, PowerState | None]] = frozenset()
        self._revision = journal.incarnation << _REVISION_BITS
        self._number = 0
        self._told: dict[str, Server] = {}
        self._listed: frozenset[str] = frozenset()

    def request_full(self) -> None:
        """Let the next heartbeat carry all servers; from any thread."""
        self._full_wanted.set()

    def refresh(self) -> frozenset[str]:
        """Read the driver once and take over what needs no event.

        :returns: servers that are to be compared by whoever tells of states: those whose state or departure no event has told although it
            was seen at the previous refresh already, and those that a watchdog has paused unseen
        """
        read_at = self._clock.now()
        try:
            listed = self._driver.servers.list_servers()
        except BackendUnavailable as error:
            if self._readable:
                LOG.warning("host %s: inventory is unavailable: %s", self._journal.host, error)
            self._readable = False
            return frozenset()
        self._readable = True
        self._listed = frozenset(seen.id for seen in listed)
        with self._journal.transaction("server.state") as transaction:
            survey = compare(transaction, listed, read_at=read_at, default_project=self._default_project)
            unseen = frozenset(server.id for server in (*survey.arrived, *survey.altered) if _shows_unseen_firing(transaction, server))
            for server in (*survey.arrived, *survey.altered):
                if server.id not in unseen:
                    transaction.put_known_server(server)
            reapplied = [] if self._drift is None else self._drift.compare(transaction, listed, read_at)
        if self._drift is not None:
            self._drift.begin(reapplied)
        for server in survey.arrived:
            if server.id not in unseen:
                LOG.info(
                    "server %s is new on host %s: %s, generation %d", server.id, self._journal.host, server.power_state, server.generation
                )
        return self._suspect(survey) | unseen

    def heartbeat(self, stopping: bool = False) -> Heartbeat:
        """The next heartbeat: everything when asked for or due, otherwise what changed since the one before."""
        now = self._clock.now()
        self._number += 1
        return Heartbeat(
            host=self._journal.host,
            release=RELEASE,
            rpc_version=RPC_API_VERSION,
            event_version=EVENT_VERSION,
            journal_id=self._journal.journal_id,
            incarnation=self._journal.incarnation,
            number=self._number,
            sent_at=now,
            interval=self._interval,
            stopping=stopping,
            driver_bound=self._driver.call_bound,
            capabilities=self._driver.capabilities(),
            inventory=self._report() if self._readable else self._report_unreadable(),
        )

    def _suspect(self, survey: Survey) -> frozenset[str]:
        differing = {(change.after.id, change.after.power_state) for change in survey.changed}
        missing: set[tuple[str, PowerState | None]] = {(server.id, None) for server in survey.gone}
        suspects = frozenset(differing | missing)
        # A driver without events has nothing to wait for.
        missed = suspects if self._driver.events is None else suspects & self._suspects
        self._suspects = suspects
        return frozenset(server for server, _ in missed)

    def _report(self) -> InventoryReport:
        full = self._full_wanted.is_set() or self._clock.monotonic() >= self._full_due
        if full:
            self._full_wanted.clear()
            self._full_due = self._clock.monotonic() + self._inventory_interval
        with self._journal.transaction("inventory.read") as transaction:
            current = {server: entry.server for server, entry in transaction.list_known_servers().items()}
            left = {server: _find_departure(transaction, server) for server in self._told.keys() - current.keys()}
            # A full report repeats them: the heartbeat that told of one may be lost, and "migrated" must not become "gone".
            removed = left | self._list_departures(transaction) if full else left
        changed = tuple(server for server in current.values() if self._told.get(server.id) != server)
        base = self._revision
        if changed or left:
            self._revision += 1
        self._told = current
        return InventoryReport(
            readable=True,
            full=full,
            revision=self._revision,
            base_revision=base,
            hash=hash_inventory({server.id: server.generation for server in current.values()}),
            servers=tuple(current.values()) if full else changed,
            removed=tuple(RemovedServer(id=server, departure=why) for server, why in sorted(removed.items())),
        )

    def _list_departures(self, transaction: JournalTransaction) -> dict[str, Departure]:
        now = self._clock.now()
        transaction.forget_departed(now, DEPARTURE_KEEP, MOST_DEPARTED_KEPT, except_for=self._listed)
        return transaction.list_departures(now - DEPARTURE_KEEP, MOST_DEPARTURES_TOLD)

    def _report_unreadable(self) -> InventoryReport:
        known = hash_inventory({server.id: server.generation for server in self._told.values()})
        return InventoryReport(readable=False, full=False, revision=self._revision, base_revision=self._revision, hash=known)


def _shows_unseen_firing(transaction: JournalTransaction, server: Server) -> bool:
    """Whether to take it over here would hide that its watchdog has fired."""
    if not is_paused_by_watchdog(server):
        return False
    known = transaction.find_known_server(server.id)
    return shows_unseen_firing(None if known is None or known.removed_at is not None else known.server, server)


def _find_departure(transaction: JournalTransaction, server: str) -> Departure:
    known = transaction.find_known_server(server)
    return (known.departure if known is not None else None) or Departure.GONE
