"""Compares what the driver lists with what the journal knows: who arrived, changed, left. Decides nothing about guests.

A domain that a migration is bringing in is not this host's yet; what a migration left behind, shut off, is not this host's any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from compute_agent.contract.models import Departure, PowerState, Server
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import JournalTransaction


@dataclass(frozen=True)
class StateChange:
    """A known server in another state than known, or in a new run of the machine (``restarted``) that no event told of."""

    before: Server
    after: Server
    restarted: bool

    def find_reset(self, read_at: datetime) -> datetime | None:
        """When this change ended the run of a machine, at the latest; None when it did not.

        A new run tells its own beginning. That may lie before a signal which was sent before the states were compared: such a signal
        went to the new run, and the dump that it started may well be running.
        """
        if self.after.power_state is PowerState.SHUTDOWN:
            return read_at
        return self.after.started_at if self.restarted else None


@dataclass(frozen=True)
class Survey:
    """What differs, and nothing of it applied. ``altered``: the same state under another name, size or owner."""

    arrived: list[Server] = field(default_factory=list)
    altered: list[Server] = field(default_factory=list)
    changed: list[StateChange] = field(default_factory=list)
    gone: list[Server] = field(default_factory=list)

    def only(self, servers: frozenset[str]) -> "Survey":
        """Of states and departures only those of ``servers``."""
        return replace(
            self,
            changed=[change for change in self.changed if change.after.id in servers],
            gone=[server for server in self.gone if server.id in servers],
        )


def describe(seen: DriverServer, *, generation: int, created_at: datetime, state_at: datetime, default_project: str) -> Server:
    """The driver's view in the contract's words; a server without an owner belongs to the configured project."""
    return Server(
        id=seen.id,
        name=seen.name or seen.instance_name,
        project=seen.project or default_project,
        user=seen.user,
        power_state=seen.power_state,
        state_reason=seen.state_reason,
        state_at=state_at,
        generation=generation,
        instance_name=seen.instance_name,
        vcpus=seen.vcpus,
        memory_mib=seen.memory_mib,
        created_at=created_at,
        started_at=seen.started_at,
        description=seen.description,
        flavor=seen.flavor,
        tags=seen.tags,
        foreign_owner=seen.foreign_owner,
        watchdog=seen.watchdog,
    )


def find_arrival(transaction: JournalTransaction, seen: DriverServer, *, at: datetime, default_project: str) -> Server | None:
    """The first description of a server that is not known here; None when it is not this host's (yet, or any more)."""
    if seen.arriving:
        return None
    departed = transaction.find_known_server(seen.id)
    is_leftover = departed is not None and departed.departure is Departure.MIGRATED and seen.power_state is PowerState.SHUTDOWN
    if is_leftover:
        return None
    generation = transaction.next_generation(seen.id)
    return describe(seen, generation=generation, created_at=at, state_at=at, default_project=default_project)


def compare(transaction: JournalTransaction, listed: Sequence[DriverServer], *, read_at: datetime, default_project: str) -> Survey:
    """Compare a complete list, read from ``read_at`` on, with the known servers.

    A server whose state an event changed after ``read_at`` is left alone: of two reports the later one holds. So is one that is about to
    have stopped, however long its platform takes: that is an event's to tell, and if that is lost, the next list's.
    """
    survey = Survey()
    known = transaction.list_known_servers()
    for seen in listed:
        if seen.id not in known:
            arrival = find_arrival(transaction, seen, at=read_at, default_project=default_project)
            if arrival is not None:
                survey.arrived.append(arrival)
            continue
        before = known.pop(seen.id).server
        if seen.arriving or seen.stopping or before.state_at > read_at:
            continue
        after = describe(
            seen, generation=before.generation, created_at=before.created_at, state_at=before.state_at, default_project=default_project
        )
        restarted = None not in (before.started_at, after.started_at) and before.started_at != after.started_at
        if restarted or after.power_state is not before.power_state:
            survey.changed.append(StateChange(before, after.model_copy(update={"state_at": read_at}), restarted))
        elif after != before:
            survey.altered.append(after)
    survey.gone.extend(entry.server for entry in known.values() if entry.server.state_at <= read_at)
    return survey
