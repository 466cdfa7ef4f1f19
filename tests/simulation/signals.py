"""What must be true of the signals that guests really got: one at most of an action, none in a hold-off, none past a deadline (3 and 4)."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from compute_agent.contract.errors import Ending
from compute_agent.contract.models import ActionKind
from tests.simulation.hypervisor import Call, Guest
from tests.simulation.kernel import START

if TYPE_CHECKING:
    from tests.simulation.invariants import Record
    from tests.simulation.world import World

CLOCK_TOLERANCE = 4.0
"""Seconds by which two hosts' notions of a hold-off may differ: both clocks wrong by the allowed skew."""


def to_seconds(microseconds: int) -> float:
    """A stored time as virtual seconds."""
    return (datetime.fromtimestamp(0, START.tzinfo) + timedelta(microseconds=microseconds) - START).total_seconds()


def list_calls(world: "World") -> list[Call]:
    """All NMI calls of all hosts, in the order of their beginning."""
    return sorted((call for agent in world.agents for call in agent.hypervisor.calls), key=lambda call: call.began_at)


def check_signals(world: "World", record: "Record") -> Iterator[str]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in list_calls(world):
        calls[call.action].append(call)
    for action, made in calls.items():
        if len(made) > 1:
            yield f"{action}: {len(made)} driver calls, began at {[round(call.began_at, 3) for call in made]}"
    for row in record.actions.values():
        sent = [call for call in calls[row["id"]] if call.sent_at is not None]
        if row["kind"] != ActionKind.TRIGGER_CRASH_DUMP and calls[row["id"]]:
            yield f"{row['id']}: is no crash dump, but an NMI was injected for it"
        if row["kind"] == ActionKind.TRIGGER_CRASH_DUMP and row["ending"] == Ending.SUCCEEDED and not sent:
            yield f"{row['id']}: succeeded, but no signal was sent"
        if row["ending"] in (Ending.FAILED, Ending.EXPIRED) and sent:
            yield f"{row['id']}: {row['ending']} ({row['code']} by {row['decided_by']}), but a signal was sent at {sent[0].sent_at:.3f}"


def check_holdoff(world: "World", record: "Record") -> Iterator[str]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in list_calls(world):
        calls[call.server].append(call)
    for guest in world.list_guests():
        for index, call in enumerate(calls[guest.id]):
            for earlier in calls[guest.id][:index]:
                yield from check_pair(world, record, guest, earlier, call)


def check_pair(world: "World", record: "Record", guest: Guest, earlier: Call, call: Call) -> Iterator[str]:
    """Whether a call that must not disturb a dump began while that of an earlier NMI was perhaps being written."""
    under_way = earlier.ended_at is None or earlier.ended_at > call.began_at
    # A killed agent's call may be under way as well; the next life cannot know more than that one was begun.
    if under_way and earlier.life == call.life:
        yield f"{call.action}: its call began while that of {earlier.action} for the same server was not over"
    if earlier.sent_at is None or call.action in world.forced:
        return
    former = record.actions.get(earlier.action)
    if call.journal != earlier.journal and (former is None or world.plan.gateway_holdoff < world.plan.holdoff):
        return  # its journal is lost, or another agent calls: nobody but the gateway knew, and it was told not to care or has forgotten
    signalled_at = earlier.sent_at
    if call.life != earlier.life and former is not None and former["ended_at"] is not None:
        # What the hypervisor does with a dead agent's call after the next one called it unknown, nobody can know.
        signalled_at = min(signalled_at, to_seconds(former["ended_at"]) - earlier.clock_offset)
    elapsed = call.began_at - signalled_at
    if signalled_at == earlier.sent_at != earlier.fired_at and call.host == earlier.host:
        # It was handed to a paused guest: nothing runs before the guest resumes.
        elapsed = 0.0 if earlier.fired_at is None else max(0.0, call.began_at - earlier.fired_at)
    # Who is started was off before: of what came until then nothing is under way any more.
    reset = any(signalled_at - CLOCK_TOLERANCE <= at <= call.began_at for at in (*guest.resets, *guest.starts_at))
    if 0 <= elapsed < world.plan.holdoff - CLOCK_TOLERANCE and not reset:
        yield f"{call.action}: signalled {elapsed:.1f} s after {earlier.action}, within the hold-off, server not reset"


def check_deadlines(world: "World", record: "Record") -> Iterator[str]:
    for call in list_calls(world):
        row = record.actions.get(call.action)
        if row is None:
            if call.action not in world.backup.forgotten.actions or call.journal not in world.lost_epochs:
                yield f"{call.action}: was signalled, but the store does not know it"
        elif call.began_clock > to_seconds(row["deadline"]):
            yield f"{call.action}: its call began {call.began_clock - to_seconds(row['deadline']):.6f} s past its deadline"
