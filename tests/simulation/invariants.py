"""The promises of a run, judged from what happened: the guests' own signals, the journals, the store, what others saw.

Nothing here asks the production code what it thinks it did; the store and the journals are read as files. By the numbers of
``doc/reliability.rst``:

1. a row for every 202: ``_check_accepted``; none that nobody asked for: ``forgery.check_forgeries``; one of what was asked for once,
   however often that was repeated: ``clients.check_keys``
2. one ending, visible in time: ``_check_endings`` (``World.overdue`` is noted while the world runs)
3. one signal, none in a hold-off: ``signals.check_signals``, ``check_holdoff``, ``watchdogs.check_holdoff_after_firings``
4. endings that fit the signals: ``signals.check_signals``, ``check_deadlines``, ``cancelling.check_cancellations``,
   ``_check_reports``, ``devices.check_devices``, ``platform.check_platform``
5. each event once, in order, or named as lost: ``_check_events``, ``watchdogs.check_firings``, ``logs.check_logs``
6. a second consumer saw all of it: ``audience.check_second_consumer``; readers of the record miss nothing: ``audience.check_cursors``
7. nobody was shown what is not theirs: ``audience.check_projects``

Liveness: at the end every action has ended, every event is recorded, and the servers are what they are (``_check_servers``).
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from compute_agent.contract.errors import CODES, Code, Ending
from compute_agent.contract.models import ActionKind, Observation, PowerState
from tests.simulation.audience import check_cursors, check_projects, check_second_consumer
from tests.simulation.cancelling import check_cancellations
from tests.simulation.clients import check_keys
from tests.simulation.devices import check_devices
from tests.simulation.forgery import check_forgeries
from tests.simulation.logs import check_logs
from tests.simulation.platform import check_platform
from tests.simulation.signals import CLOCK_TOLERANCE, check_deadlines, check_holdoff, check_signals, list_calls
from tests.simulation.watchdogs import check_firings, check_holdoff_after_firings
from tests.simulation.world import World


def check_run(world: World) -> list[str]:
    """Every violation, in words; empty when all promises held."""
    record = Record(world)
    checks = (
        _check_tasks,
        _check_accepted,
        _check_endings,
        check_signals,
        check_holdoff,
        check_deadlines,
        _check_events,
        _check_reports,
        _check_observations,
        _check_watchdogs,
        _check_devices,
        _check_logs,
        check_platform,
        _check_violation_counters,
        _check_servers,
        check_forgeries,
        check_keys,
        check_cancellations,
        _check_casts,
        check_second_consumer,
        check_cursors,
        check_projects,
    )
    return [violation for check in checks for violation in check(world, record)]


class Record:
    """The store at the end of a run."""

    def __init__(self, world: World) -> None:
        connection = sqlite3.connect(world.gateway.path)
        connection.row_factory = sqlite3.Row
        self.actions = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM actions")}
        self.events = [dict(row) for row in connection.execute("SELECT * FROM events ORDER BY position")]
        self.servers = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM servers")}
        self.agents = {row["host"]: dict(row) for row in connection.execute("SELECT * FROM agents")}
        self.outbox = [dict(row) for row in connection.execute("SELECT * FROM outbox ORDER BY sequence")]
        self.counters = {row["name"]: row["value"] for row in connection.execute("SELECT * FROM counters")}
        self.shelved = [row["body"] for row in connection.execute("SELECT body FROM dead_letters")]
        connection.close()

    def list_lost_ranges(self) -> list[tuple[str, int, int]]:
        """What ``events.lost`` names: (epoch, first, last)."""
        payloads = [json.loads(event["payload"]) for event in self.events if event["event_type"] == "events.lost"]
        return [(payload["lost_epoch"], payload["first"], payload["last"]) for payload in payloads]


def _check_tasks(world: World, _record: Record) -> Iterator[str]:
    for text in world.errors.tracebacks:
        yield f"production code caught what it did not expect: {text}"


def _check_accepted(world: World, record: Record) -> Iterator[str]:
    told = {event["action_id"] for event in record.events if event["event_type"] == "action.received"}
    for action in world.accepted:
        if action in record.actions:
            continue
        if action not in world.backup.forgotten.actions:
            yield f"{action}: 202 was answered, but there is no row"
        elif action in told:
            yield f"{action}: 202 was answered after the backup, its agent told of it again, and there is no row"


def _check_casts(world: World, _record: Record) -> Iterator[str]:
    """However many engines there are: one cast at a time to a host, unless a lease ran out meanwhile."""
    yield from world.broker.crowded


def _check_endings(world: World, record: Record) -> Iterator[str]:
    for row in record.actions.values():
        if row["state"] != "ended" or row["ending"] not in tuple(Ending):
            yield f"{row['id']}: still {row['state']} at the end"
        elif row["code"] not in tuple(Code) or CODES[Code(row["code"])].ending != row["ending"]:
            yield f"{row['id']}: ended {row['ending']} with the code {row['code']}"
        if row["revised_at"] is not None and row["decided_by"] != "agent":
            yield f"{row['id']}: revised by {row['decided_by']}"
    for action, since in world.overdue.items():
        yield f"{action}: was not ended by its deadline and grace, seen at {since:.1f}"
    own_epochs = {json.loads(row["payload"])["epoch"] for row in record.outbox} if world.backup.restorations else set()
    endings: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for event in record.events:
        if event["event_type"] == "action.ended":
            payload = json.loads(event["payload"])
            endings[event["action_id"]].add((event["epoch"], payload["ending"], payload["code"]))
    for action, found in endings.items():
        per_epoch = Counter(epoch for epoch, _, _ in found)
        for epoch, count in per_epoch.items():
            if count > 1 and epoch not in own_epochs:  # a restored store has forgotten what it said
                yield f"{action}: {count} different endings out of one journal {epoch}"


def _check_events(world: World, record: Record) -> Iterator[str]:
    recorded = Counter(event["message_id"] for event in record.events)
    for message_id, count in recorded.items():
        if count > 1:
            yield f"event {message_id} was recorded {count} times"
    lost = record.list_lost_ranges()
    highest: dict[str, int] = defaultdict(int)
    for event in record.events:
        highest[event["epoch"]] = max(highest[event["epoch"]], event["sequence"] or 0)
    for epoch, committed in world.list_committed_events().items():
        destroyed = epoch in world.lost_epochs
        for sequence, message_id, event_type in committed:
            if message_id in recorded or any(at == epoch and first <= sequence <= last for at, first, last in lost):
                continue
            if destroyed and sequence > highest[epoch]:
                continue  # nobody but the journal knew that these ever were
            yield f"event {event_type} {sequence} of {epoch} was committed and never recorded"
    for epoch, first, last in lost:
        if epoch not in world.lost_epochs:
            yield f"events {first} to {last} of {epoch} are called lost, but no operator destroyed anything"
    known = {message_id for committed in world.list_committed_events().values() for _, message_id, _ in committed}
    own = {row["message_id"] for row in record.outbox} | world.backup.forgotten.message_ids
    for event in record.events:
        if event["message_id"] not in known | own | world.forgeries.message_ids:
            yield f"event {event['event_type']} {event['message_id']} was recorded and never committed anywhere"
    for row in record.outbox:
        if row["sent_at"] is None or row["message_id"] not in recorded:
            yield f"the gateway's own event {row['event_type']} {row['sequence']} was not published and recorded"
    if world.order_is_promised:
        yield from _check_order(record)


def _check_order(record: Record) -> Iterator[str]:
    last: dict[tuple[Any, ...], int] = {}
    for event in record.events:
        place = (event["host"], event["epoch"], event["server"])
        if event["sequence"] < last.get(place, 0):
            yield f"event {event['event_type']} {event['sequence']} of {place} was recorded after {last[place]}"
        last[place] = max(last.get(place, 0), event["sequence"])


def _check_reports(world: World, record: Record) -> Iterator[str]:
    """Each collection that succeeded has its one report, and none that did not succeed has one. A report may be lost with its journal, as
    any event: that it is named then is another invariant."""
    reports = Counter(event["action_id"] for event in record.events if event["event_type"] == "server.diagnostics")
    for row in record.actions.values():
        wanted = int(row["kind"] == ActionKind.COLLECT_DIAGNOSTICS and row["ending"] == Ending.SUCCEEDED)
        perhaps = row["ending"] == Ending.UNKNOWN
        count = reports[row["id"]]
        if count == wanted or (perhaps and count == 1) or (count == 0 and row["journal_id"] in world.lost_epochs):
            continue
        yield f"{row['id']}: {row['kind']} {row['ending']} ({row['code']}), and there are {count} reports of it"


def _check_observations(world: World, record: Record) -> Iterator[str]:
    paused = {guest.id for guest in world.list_guests() if guest.state is PowerState.PAUSED}
    for row in record.actions.values():
        if row["kind"] != ActionKind.TRIGGER_CRASH_DUMP:
            if row["observation"] is not None:
                yield f"{row['id']}: is a {row['kind']}, and yet {row['observation']} was observed"
            continue
        if row["observation"] is not None and row["ending"] not in (Ending.SUCCEEDED, Ending.UNKNOWN):
            yield f"{row['id']}: {row['ending']}, and yet {row['observation']} was observed"
        is_paused = row["observation"] == Observation.PENDING_UNTIL_RESUME and row["server"] in paused
        if (
            row["observation_final"] == 0
            and not is_paused
            and row["ending"] == Ending.SUCCEEDED
            and row["journal_id"] not in world.lost_epochs
        ):
            yield f"{row['id']}: succeeded, and its observation is still {row['observation']}"
    finals = Counter(
        (event["action_id"], event["epoch"])
        for event in record.events
        if event["event_type"] == "action.observed" and json.loads(event["payload"])["final"]
    )
    for (action, epoch), count in finals.items():
        if count > 1:
            yield f"{action}: {count} final observations out of one journal {epoch}"


def _check_watchdogs(world: World, record: Record) -> Iterator[str]:
    guests = {guest.id: guest for agent in world.agents for guest in agent.hypervisor.guests.values()}
    yield from check_firings(world.watchdogs, guests, record.events, world.lost_epochs)
    nmis = {place: moment for host in world.watchdogs for place, moment in host.nmis.items()}
    calls = {call.action: call for call in list_calls(world)}

    def was_reset(server: str, fired_at: datetime, action: str) -> bool:
        fired, call = nmis.get((server, fired_at)), calls.get(action)
        until = world.kernel.time if call is None else call.began_at  # an agent that died before its call sent nothing
        return fired is not None and any(fired <= at <= until for at in guests[server].resets)

    yield from check_holdoff_after_firings(record.events, world.forced, was_reset, world.plan.holdoff, CLOCK_TOLERANCE)


def _check_devices(world: World, record: Record) -> Iterator[str]:
    known = [guest for agent in world.agents if not agent.lost_epochs for guest in agent.hypervisor.guests.values() if not guest.redefined]
    yield from check_devices(known, record.events, world.arguments)


def _check_logs(world: World, record: Record) -> Iterator[str]:
    guests = [(guest, bool(agent.lost_epochs)) for agent in world.agents for guest in agent.hypervisor.guests.values()]
    clocks = {agent.host: agent.hypervisor.clock for agent in world.agents}
    yield from check_logs(guests, record.events, lambda host, moment: clocks[host].list_virtual(moment))


def _check_violation_counters(world: World, record: Record) -> Iterator[str]:
    explained = {"violations.forged_sender"} if world.forgeries.senders else set()
    for name, value in record.counters.items():
        if name.startswith("violations.") and value and name not in explained:
            yield f"the gateway itself counted {name} = {value}"


def _check_servers(world: World, record: Record) -> Iterator[str]:
    for agent in world.agents:
        row = record.agents.get(agent.hypervisor.host)
        if row is None or row["state"] != "up":
            yield f"agent of {agent.hypervisor.host} is not up at the end"
        for guest in agent.hypervisor.guests.values():
            server = record.servers.get(guest.id)
            if server is None or server["deleted_at"] is not None:
                yield f"guest {guest.name} is not among the servers"
            elif server["power_state"] != guest.state or server["host"] != agent.hypervisor.host:
                yield f"guest {guest.name} is {guest.state}, the store says {server['power_state']} on {server['host']}"
