"""Compares what the driver lists with what the journal knows: who arrived, changed, left. Decides nothing about guests.

A domain that a migration is bringing in is not this host's yet; what a migration left behind, shut off, is not this host's any more.
A server of which the driver says that nobody can read it is there: it stays in the state in which it was seen last, and why is told beside.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from compute_agent.contract.models import Departure, PowerState, Server
from compute_agent.contract.text import clean_line
from compute_agent.drivers.models import DriverServer
from compute_agent.journal import JournalTransaction


@dataclass(frozen=True)
class StateChange:
    """A known server in another state than known, or in a new run of the machine (``restarted``) that no event told of."""

    before: Server
    after: Server
    restarted: bool

    def find_reset(self, read_at: datetime) -> datetime | None:
        """When this change ended the run of a machine, at the latest; None when it did not. A management controller tells the time of a
        reset by its own clock, which may be ahead.

        A new run tells its own beginning. That may lie before a signal which was sent before the states were compared: such a signal
        went to the new run, and the dump that it started may well be running.
        """
        if self.after.power_state is PowerState.SHUTDOWN:
            return read_at
        if not self.restarted or self.after.started_at is None:
            return None
        return min(self.after.started_at, read_at)


@dataclass(frozen=True)
class Survey:
    """What differs, and nothing of it applied. ``altered``: the same state under another name, size or owner, or the first one read."""

    arrived: list[Server] = field(default_factory=list)
    altered: list[Server] = field(default_factory=list)
    changed: list[StateChange] = field(default_factory=list)
    gone: list[Server] = field(default_factory=list)


def describe(seen: DriverServer, *, generation: int, created_at: datetime, state_at: datetime, default_project: str) -> Server:
    """The driver's view in the contract's words; a server without an owner belongs to the configured project.

    Of one that nobody can read ``state_reason`` says why: that is where people look who wonder about its state.
    """
    return Server(
        id=seen.id,
        name=seen.name or seen.instance_name,
        project=seen.project or default_project,
        user=seen.user,
        power_state=seen.power_state,
        state_reason=f"not read: {clean_line(seen.unread)}" if seen.unread else seen.state_reason,
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


_OF_THE_LAST_READING = ("power_state", "started_at", "vcpus", "memory_mib", "watchdog")


def _describe_unread(seen: DriverServer, before: Server, default_project: str) -> Server:
    """As it was read last; only its name and owner are known without reading it."""
    after = describe(
        seen, generation=before.generation, created_at=before.created_at, state_at=before.state_at, default_project=default_project
    )
    return after.model_copy(update={name: getattr(before, name) for name in _OF_THE_LAST_READING})


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


def find_known(transaction: JournalTransaction, servers: Collection[str] | None) -> dict[str, Server]:
    """Those of ``servers`` (None: all) that this host has, as last committed. A few of many are not looked for among all."""
    if servers is None:
        return {server: entry.server for server, entry in transaction.list_known_servers().items()}
    found = {server: transaction.find_known_server(server) for server in servers}
    return {server: entry.server for server, entry in found.items() if entry is not None and entry.removed_at is None}


def compare(
    transaction: JournalTransaction,
    listed: Sequence[DriverServer],
    *,
    read_at: datetime,
    default_project: str,
    servers: Collection[str] | None = None,
) -> Survey:
    """Compare a complete list, read from ``read_at`` on, with the known servers.

    :param servers: only these; None: all

    A server whose state an event changed after ``read_at`` is left alone: of two reports the later one holds. So is one that is about to
    have stopped, however long its platform takes: that is an event's to tell, and if that is lost, the next list's.
    """
    survey = Survey()
    known = find_known(transaction, servers)
    for seen in listed:
        if servers is not None and seen.id not in servers:
            continue
        if seen.id not in known:
            arrival = find_arrival(transaction, seen, at=read_at, default_project=default_project)
            if arrival is not None:
                survey.arrived.append(arrival)
            continue
        before = known.pop(seen.id)
        if seen.unread:
            after = _describe_unread(seen, before, default_project)
            if after != before:
                survey.altered.append(after)
            continue
        if seen.arriving or seen.stopping or before.state_at > read_at:
            continue
        after = describe(
            seen, generation=before.generation, created_at=before.created_at, state_at=before.state_at, default_project=default_project
        )
        restarted = None not in (before.started_at, after.started_at) and before.started_at != after.started_at
        if before.power_state is PowerState.PENDING and after.power_state is not PowerState.PENDING:
            # Nothing happened to it: it was read for the first time.
            survey.altered.append(after.model_copy(update={"state_at": read_at}))
        elif restarted or after.power_state is not before.power_state:
            survey.changed.append(StateChange(before, after.model_copy(update={"state_at": read_at}), restarted))
        elif after != before:
            survey.altered.append(after)
    survey.gone.extend(server for server in known.values() if server.state_at <= read_at)
    return survey
