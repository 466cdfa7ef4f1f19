"""What things cost in counts that are the same on every machine: statements, commits, messages and bytes."""

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compute_agent.contract.models import PowerState
from compute_agent.contract.notifications import encode
from tests.http.fleet import Agent
from tests.unit.counts.counting import Counts, counting_sqlite
from tests.unit.counts.whole_way import INVENTORY_INTERVAL, JOURNAL_FILE, STORE_FILE, WholeWay, build_servers
from tests.unit.gateway.engine_parts import AgentVoice, build_server

Table = dict[str, dict[str, int]]
"""What was done -> what was counted -> how often."""

STORED = Path(__file__).parent / "counts.json"
SERVERS = 50
_PAGE = 200
_BATCH = 100
_HEARTBEATS = 20


def measure() -> Table:
    """All of it; the same in each run."""
    with tempfile.TemporaryDirectory(prefix="crashcart-counts-") as name, counting_sqlite() as counts, _whole_way(Path(name)) as way:
        table: Table = {}
        _measure_action(way, counts, table)
        _measure_requests(way, counts, table)
        _measure_recording(way, counts, table)
        _measure_heartbeats(way, counts, table)
        _measure_idleness(way, counts, table)
        return table


def write_stored(table: Table) -> None:
    STORED.write_text(json.dumps(table, indent=2) + "\n")


def read_stored() -> Table:
    table: Table = json.loads(STORED.read_text())
    return table


@contextmanager
def _whole_way(directory: Path) -> Iterator[WholeWay]:
    way = WholeWay(directory, SERVERS)
    try:
        Agent("h2", servers=build_servers(_PAGE, way.clock.now())).beat(way.store, way.clock.now())
        yield way
    finally:
        way.close()


def _measure_action(way: WholeWay, counts: Counts, table: Table) -> None:
    """One crash dump of a server that panics, from the request to the record of what was seen; the second one, so that all is warm."""
    for server in way.servers[:2]:
        for file in (STORE_FILE, JOURNAL_FILE):
            counts.take(file)
        action = way.post_crash_dump(server)
        way.dispatcher.step(woken=True)
        casts = way.deliver()
        way.report()
        events = {event.event_type: len(encode(event)) for event in way.record()}
        table["crash dump from POST to its recorded end, at the gateway"] = counts.take(STORE_FILE)
        table["crash dump from POST to its recorded end, at the agent"] = counts.take(JOURNAL_FILE)
        seen = way.client.simulate_get(f"/v1/actions/{action}").json
        assert (seen["ending"], seen["observation"]["observation"]) == ("succeeded", "guest_panicked"), seen
    table["crash dump, messages"] = {"casts": len(casts), "events": len(events)}
    table["crash dump, bytes of each message"] = {"cast": casts[0], **events}


def _measure_requests(way: WholeWay, counts: Counts, table: Table) -> None:
    server, other = way.servers[1], iter(way.servers[2:])
    actions = way.client.simulate_get(f"/v2.1/servers/{server}/os-instance-actions").json["instanceActions"]
    action = actions[0]["request_id"]
    paths = {
        "GET /v1/actions/ID": f"/v1/actions/{action}",
        "GET /v1/servers/ID": f"/v1/servers/{server}",
        "GET /v1/events?action_id=ID": f"/v1/events?action_id={action}",
        "GET /v2.1/servers/ID": f"/v2.1/servers/{server}",
        "GET /v2.1/servers/detail of 10": "/v2.1/servers/detail?all_tenants=1&limit=10",
        f"GET /v2.1/servers/detail of {_PAGE}": f"/v2.1/servers/detail?all_tenants=1&limit={_PAGE}",
        "GET os-instance-actions": f"/v2.1/servers/{server}/os-instance-actions",
        "GET os-instance-actions/ID": f"/v2.1/servers/{server}/os-instance-actions/{action}",
        "GET /v2.1 diagnostics": f"/v2.1/servers/{server}/diagnostics",
    }
    requests: dict[str, Callable[[], object]] = {
        "POST trigger_crash_dump": lambda: way.post_crash_dump(next(other)),
        **{name: lambda path=path: _get(way, path) for name, path in paths.items()},  # type: ignore[misc]
    }
    for name, request in requests.items():
        request()  # what is done once only
        counts.take(STORE_FILE)
        request()
        table[name] = counts.take(STORE_FILE)


def _get(way: WholeWay, path: str) -> None:
    answer = way.client.simulate_get(path)
    assert answer.status_code == 200, answer.text


def _measure_recording(way: WholeWay, counts: Counts, table: Table) -> None:
    voice = AgentVoice(way.clock, "h2", "journal-of-h2")
    servers = sorted(build_servers(_PAGE, way.clock.now()))
    for round_ in range(2):
        way.clock.advance(1.0)
        states = (("server.paused", PowerState.PAUSED), ("server.resumed", PowerState.RUNNING))[round_]
        batch = [
            voice.tell(states[0], server=server, power_state=states[1], reason="of an operator")
            if number % 2
            else voice.tell("server.watchdog.fired", server=server, model="i6300esb", expiry_action="none", driver_word="none")
            for number, server in enumerate(servers[:_BATCH])
        ]
        counts.take(STORE_FILE)
        way.recorder.record(batch)
    table[f"recording of {_BATCH} events of as many servers"] = counts.take(STORE_FILE)
    voices = [AgentVoice(way.clock, f"h{number}", f"journal-of-h{number}") for number in range(3, 3 + _BATCH // 2)]
    for _ in range(2):
        batch = [voice.tell("server.levitated", server=None) for voice in voices for _ in range(2)]
        counts.take(STORE_FILE)
        way.recorder.record(batch)
    table[f"recording of {_BATCH} events of {len(voices)} hosts"] = counts.take(STORE_FILE)
    way.recorder.record([voice.tell("server.levitated", server=servers[0])])
    table["recording of 1 event that changes nothing"] = counts.take(STORE_FILE)


def _measure_heartbeats(way: WholeWay, counts: Counts, table: Table) -> None:
    bytes_of = table.setdefault("heartbeat, bytes", {})
    _beat(way, counts)  # tells of what the crash dumps above have changed
    for name, wait in (("unchanged", 30.0), (f"all {SERVERS} servers, unchanged", INVENTORY_INTERVAL)):
        way.clock.advance(wait)
        bytes_of[name] = _beat(way, counts)
        table[f"heartbeat, {name}, at the gateway"] = counts.take(STORE_FILE)
        table[f"heartbeat, {name}, at the agent"] = counts.take(JOURNAL_FILE)
    for server in way.servers[10:20]:
        way.host.hypervisor.change(server, name=f"{server[:4]}-renamed")
    way.clock.advance(30.0)
    bytes_of["10 servers renamed"] = _beat(way, counts)
    table["heartbeat, 10 servers renamed, at the gateway"] = counts.take(STORE_FILE)
    for _ in range(_HEARTBEATS):
        way.beat()
    counts.take(STORE_FILE)
    way.record_heartbeats()
    table[f"{_HEARTBEATS} heartbeats of one host, unchanged, in one batch, at the gateway"] = counts.take(STORE_FILE)
    _measure_heartbeats_of_many(way, counts, table)


def _measure_heartbeats_of_many(way: WholeWay, counts: Counts, table: Table) -> None:
    voices = [AgentVoice(way.clock, f"fleet-{number}", f"journal-of-fleet-{number}") for number in range(_HEARTBEATS)]
    servers = {voice.host: build_server(way.clock, str(uuid.uuid5(uuid.NAMESPACE_URL, voice.host))) for voice in voices}
    for told, changes in (("all new", {}), ("a server of each changed", {"name": "renamed"}), ("unchanged", {"name": "renamed"})):
        batch = [voice.beat(servers[voice.host].model_copy(update=changes), full=told == "all new") for voice in voices]
        counts.take(STORE_FILE)
        way.recorder.record_heartbeats(batch)
        table[f"heartbeats of {_HEARTBEATS} hosts, {told}, in one batch, at the gateway"] = counts.take(STORE_FILE)


def _beat(way: WholeWay, counts: Counts) -> int:
    """One heartbeat's bytes; what it took is counted then."""
    for file in (STORE_FILE, JOURNAL_FILE):
        counts.take(file)
    way.beat()
    return sum(len(encode(heartbeat)) for heartbeat in way.record_heartbeats())


def _measure_idleness(way: WholeWay, counts: Counts, table: Table) -> None:
    """With nothing to do, which is what these do most of the time."""
    way.dispatcher.step()
    way.deliver()
    way.report()
    way.record()
    for name, step in (("sweep", way.sweep.step), ("dispatcher", way.dispatcher.step)):
        step()
        counts.take(STORE_FILE)
        step()
        table[f"idle step of the {name}"] = counts.take(STORE_FILE)
