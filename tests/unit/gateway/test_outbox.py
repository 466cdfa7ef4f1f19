"""What the gateway says itself: all that is known of an action, published as it was written down, in its order."""

from datetime import timedelta
from typing import Any

from api_gateway.outbox import StoredOutbox
from api_gateway.store import Store, actions, endings, outbox, reports
from compute_agent.contract import versions
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.notifications import format_timestamp
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import SERVER, build_action

SILENT = {"release": "2026.2.0", "journal_id": "j1", "incarnation": 1, "reason": "silent"}


def give_up(store: Store, clock: FakeClock, **changes: Any) -> actions.ActionRow:
    """An action that nobody reported, with its ending by the gateway."""
    row = build_action(clock, **changes)
    with store.write() as c:
        actions.insert_action(c, row)
        clock.advance(5)
        assert endings.end_by_gateway(c, row.id, ending=Ending.UNKNOWN, code=Code.NOT_REPORTED, reason="No word.", at=clock.now())
    return row


def list_unsent(store: Store) -> list[outbox.OutboxRow]:
    with store.read() as c:
        return outbox.list_unsent(c)


def test_an_ending_by_the_gateway_is_told_with_all_that_is_known_of_its_action(store: Store, clock: FakeClock) -> None:
    """Whose it is, which request it came from, and what the agent reported before it fell silent."""
    begin = clock.now()
    moments = {"started_at": begin + timedelta(seconds=1), "signalled_at": begin + timedelta(seconds=2)}
    action = give_up(store, clock, state="started", global_request_id="req-of-the-caller", **moments)
    (told,) = list_unsent(store)
    assert (told.event_type, told.server, told.occurred_at) == ("action.ended", SERVER, begin + timedelta(seconds=5))
    assert told.payload == {
        "version": versions.EVENT_VERSION,
        "server": SERVER,
        "host": "a",
        "epoch": store.store_id,
        "sequence": 1,
        "occurred_at": "2026-01-01T00:00:05Z",
        "action_id": action.id,
        "kind": "trigger_crash_dump",
        "project": "demo",
        "user": "admin",
        "global_request_id": "req-of-the-caller",
        "ending": "unknown",
        "code": "not_reported",
        "reason": "No word.",
        "decided_by": "gateway",
        "started_at": "2026-01-01T00:00:01Z",
        "signalled_at": "2026-01-01T00:00:02Z",
    }
    with store.read() as c:
        row = actions.get_action(c, action.id)
    assert (row.state, row.ending, row.code, row.reason, row.decided_by) == ("ended", "unknown", "not_reported", "No word.", "gateway")
    assert row.ended_at == row.recorded_at == row.updated_at == clock.now()


def test_a_revision_is_told_with_what_was_said_before_and_what_is_true(store: Store, clock: FakeClock) -> None:
    action = give_up(store, clock)
    ended_at = clock.now()
    clock.advance(5)
    said = {"ending": "failed", "code": "driver_fault", "reason": "As the driver said."}
    with store.write() as c, reports.reported_actions(c) as reported:
        reports.apply_ended(reported, action.id, host="a", epoch="j1", at=ended_at, now=clock.now(), **said)
    told = list_unsent(store)[-1]
    assert (told.event_type, told.server, told.occurred_at) == ("action.revised", SERVER, clock.now())
    expected = {"action_id": action.id, "kind": "trigger_crash_dump", "previous_ending": "unknown", "previous_code": "not_reported", **said}
    assert expected.items() <= told.payload.items()
    assert (told.payload["server"], told.payload["host"], told.payload["sequence"]) == (SERVER, "a", 2)


def test_own_events_are_published_as_they_were_written_down_oldest_first_until_they_are_marked(store: Store, clock: FakeClock) -> None:
    with store.write() as c:
        for host in ("a", "b", "c"):
            outbox.append_event(c, "agent.down", server=None, host=host, occurred_at=clock.now(), body=SILENT)
            clock.advance(1)
    source = StoredOutbox(store, clock, publisher_id="gateway:test:1")
    rows = list_unsent(store)
    entries = source.list_unsent(2)
    assert [entry.sequence for entry in entries] == [1, 2]
    for row, entry in zip(rows, entries, strict=False):
        told = entry.notification
        assert (told.message_id, told.event_type, told.publisher_id) == (row.message_id, "agent.down", "gateway:test:1")
        assert (told.severity, told.timestamp, told.payload) == ("warn", format_timestamp(row.occurred_at), row.payload)
    source.mark_sent([1])
    assert [entry.sequence for entry in source.list_unsent(10)] == [2, 3]
    with store.write() as c:
        assert outbox.prune(c, sent_before=clock.now()) == 0
        assert outbox.prune(c, sent_before=clock.now() + timedelta(microseconds=1)) == 1
