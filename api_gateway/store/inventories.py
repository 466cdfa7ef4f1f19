"""Inventory reports become sightings: those of several hosts at a time, with as many statements as one takes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from api_gateway.store.sightings import (
    Sighting,
    insert_sightings,
    list_generations,
    list_sightings_at,
    list_sightings_of_hosts,
    overwrite_sightings,
    remove_sightings,
)
from compute_agent.contract.models import Departure, Flavor, InventoryReport, Server, hash_inventory

_Sightings = Mapping[str, Sighting]
"""A host's, by server."""


@dataclass(frozen=True)
class Reported:
    """A host's readable inventory report.

    ``sent_at`` is by its own clock. ``known_revision`` is the one that our sightings of the host are at, None when they are not complete;
    ``known_hash`` is theirs.
    """

    host: str
    report: InventoryReport
    sent_at: datetime
    known_revision: int | None
    known_hash: str | None

    @property
    def has_base(self) -> bool:
        """Whether a difference begins where our sightings are."""
        return self.known_revision is not None and self.known_revision == self.report.base_revision

    @property
    def named(self) -> frozenset[str]:
        """The servers that it is about."""
        return frozenset(server.id for server in self.report.servers) | {removed.id for removed in self.report.removed}

    def is_of_other_generations(self, before: _Sightings) -> bool:
        """Whether it names servers that were not there before, or were others: the hash of the host's inventory is another then."""
        return any(server.id not in before or before[server.id].generation != server.generation for server in self.report.servers)


@dataclass(frozen=True)
class AppliedInventory:
    """What an inventory report changed. ``complete`` False: what we hold is not the host's whole inventory; ask for a full report."""

    complete: bool
    changed: frozenset[str] = frozenset()
    departures: dict[str, Departure] = field(default_factory=dict)


def apply_reports(c: Connection, reported: Collection[Reported]) -> dict[str, AppliedInventory]:
    """Apply reports, each of another host; what became of them, by host.

    A full one replaces all; a difference is applied on top of its base only, and must lead to the hash that it names.
    """
    applied: dict[str, AppliedInventory] = {}
    full = [each for each in reported if each.report.full]
    differences: list[Reported] = []
    for each in reported:
        if each.report.full:
            continue
        if not each.has_base:
            repeated = each.known_revision == each.report.revision and each.known_hash == each.report.hash
            applied[each.host] = AppliedInventory(complete=repeated)
        elif not each.named:
            applied[each.host] = AppliedInventory(complete=each.known_hash == each.report.hash)
        else:
            differences.append(each)
    before = _read_before(c, full, differences)
    changed = _put(c, [*full, *differences], before)
    departures = {each.host: _find_departures(each, before[each.host]) for each in (*full, *differences)}
    remove_sightings(c, departures)
    others = [each.host for each in differences if departures[each.host] or each.is_of_other_generations(before[each.host])]
    hashes = {host: hash_inventory(generations) for host, generations in list_generations(c, others).items()}
    for each in (*full, *differences):
        complete = each.report.full or hashes.get(each.host, each.known_hash) == each.report.hash
        applied[each.host] = AppliedInventory(complete=complete, changed=changed[each.host], departures=departures[each.host])
    return applied


def _find_departures(each: Reported, before: _Sightings) -> dict[str, Departure]:
    """Why the host has servers no longer; of those that are not in a full report, it may not say it."""
    said = {removed.id: removed.departure for removed in each.report.removed}
    if not each.report.full:
        return {server: departure for server, departure in said.items() if server in before}
    return {server: said.get(server, Departure.GONE) for server in before.keys() - {server.id for server in each.report.servers}}


def _read_before(c: Connection, full: Sequence[Reported], differences: Sequence[Reported]) -> dict[str, dict[str, Sighting]]:
    """What these hosts have said, as far as their reports are about it: of a host with many servers, most reports name few."""
    before: dict[str, dict[str, Sighting]] = {each.host: {} for each in (*full, *differences)}
    sightings = list_sightings_of_hosts(c, [each.host for each in full])
    sightings += list_sightings_at(c, {each.host: each.named for each in differences})
    for sighting in sightings:
        before[sighting.host][sighting.server] = sighting
    return before


def _put(c: Connection, reported: Iterable[Reported], before: Mapping[str, _Sightings]) -> dict[str, frozenset[str]]:
    """Insert or overwrite; by host, ids of those that are another word than before."""
    new: list[Sighting] = []
    other: list[Sighting] = []
    changed: dict[str, frozenset[str]] = {}
    for each in reported:
        known = before[each.host]
        words = [_merge(each.host, server, known.get(server.id), each.sent_at) for server in each.report.servers]
        new += [word for word in words if word.server not in known]
        other += [word for word in words if word.server in known and word != known[word.server]]
        changed[each.host] = frozenset(word.server for word in words if word != known.get(word.server))
    insert_sightings(c, new)
    overwrite_sightings(c, other)
    return changed


def _merge(host: str, server: Server, old: Sighting | None, sent_at: datetime) -> Sighting:
    state, reason, state_at = server.power_state.value, server.state_reason, server.state_at
    watchdog = None if server.watchdog is None else server.watchdog.to_wire()
    watchdog_at = None
    if old is not None and old.generation == server.generation:
        # Where an event overtook the heartbeat.
        if old.state_at > server.state_at:
            state, reason, state_at = old.power_state, old.state_reason, old.state_at
        if old.watchdog_at is not None and old.watchdog_at > sent_at:
            watchdog = old.watchdog
        watchdog_at = old.watchdog_at
    return Sighting(
        host=host,
        server=server.id,
        name=server.name,
        project=server.project,
        user=server.user,
        generation=server.generation,
        power_state=state,
        state_reason=reason,
        state_at=state_at,
        instance_name=server.instance_name,
        vcpus=server.vcpus,
        memory_mib=server.memory_mib,
        created_at=server.created_at,
        started_at=server.started_at,
        description=server.description,
        flavor=None if server.flavor is None else _convert_flavor(server.flavor),
        tags=server.tags,
        foreign_owner=server.foreign_owner,
        watchdog=watchdog,
        watchdog_at=watchdog_at,
    )


def _convert_flavor(flavor: Flavor) -> dict[str, Any]:
    return {
        "name": flavor.name,
        "vcpus": flavor.vcpus,
        "ram": flavor.ram_mib,
        "disk": flavor.disk_gib,
        "ephemeral": flavor.ephemeral_gib,
        "swap": flavor.swap_mib,
        "extra_specs": {},
    }
