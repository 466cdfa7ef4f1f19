"""Actions on their way down: what may be cast, who may end them, what blocks another crash dump."""

from dataclasses import replace
from datetime import timedelta

import pytest

from api_gateway.store import Store, StoreRejected, actions, casts, endings
from api_gateway.store.actions import ActionRow
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.events import ActionEnded
from compute_agent.contract.models import PowerState
from tests.fakes import FakeClock
from tests.unit.gateway.store_parts import OTHER_SERVER, SERVER, FakeHost, at, build_action, list_outbox_events

TIMEOUT = timedelta(seconds=5)
LEASE = timedelta(seconds=30)
HOLDOFF = timedelta(seconds=600)


def add(store: Store, clock: FakeClock, **changes: object) -> ActionRow:
    row = build_action(clock, **changes)
    with store.write() as c:
        actions.insert_action(c, row)
    return row


def claim(store: Store, clock: FakeClock, owner: str = "one", limit: int = 10) -> list[str]:
    with store.write() as c:
        rows = casts.claim_castable(c, owner=owner, now=clock.now(), lease=LEASE, limit=limit, received_timeout=TIMEOUT)
    return [row.id for row in rows]


def record(store: Store, clock: FakeClock, action: ActionRow, *, journal_id: str = "j", incarnation: int = 1) -> ActionRow | None:
    with store.write() as c:
        row = actions.get_action(c, action.id)
        counted = casts.count_cast(row, owner="one", at=clock.now(), journal_id=journal_id, incarnation=incarnation)
        casts.record_casts(c, [] if counted is None else [counted])
    return counted


def release(store: Store, action: ActionRow, owner: str = "one") -> bool:
    with store.write() as c:
        return casts.release_leases(c, [action.id], owner) == 1


def cast(store: Store, clock: FakeClock, action: ActionRow) -> None:
    """One whole cast that perhaps arrives."""
    assert action.id in claim(store, clock)
    assert record(store, clock, action) is not None
    assert release(store, action)


def end(store: Store, clock: FakeClock, action: ActionRow, ending: Ending, code: Code) -> bool:
    with store.write() as c:
        return endings.end_by_gateway(c, action.id, ending=ending, code=code, reason="Because.", at=clock.now())


def get(store: Store, action: ActionRow) -> ActionRow:
    with store.read() as c:
        return actions.get_action(c, action.id)


@pytest.fixture
def host(store: Store, clock: FakeClock) -> FakeHost:
    """Host ``a``, whose agent is known."""
    host = FakeHost(store, clock, "a")
    host.beat(full=True)
    return host


def test_an_action_is_read_as_it_was_written(store: Store, clock: FakeClock) -> None:
    clock.advance(0.123456)
    row = add(store, clock, force=True, idempotency_key="key", global_request_id="req-x", user=None)
    assert get(store, row) == row
    with store.read() as c:
        assert actions.find_action(c, "req-none") is None
        with pytest.raises(LookupError):
            actions.get_action(c, "req-none")


def test_the_same_request_of_the_same_user_is_found_and_kept_single(store: Store, clock: FakeClock) -> None:
    row = add(store, clock, idempotency_key="key")
    add(store, clock)
    add(store, clock, idempotency_key="key", user="somebody else")
    with store.read() as c:
        assert actions.find_by_idempotency_key(c, SERVER, "demo", "admin", "key") == row
        assert actions.find_by_idempotency_key(c, SERVER, "demo", "admin", "other") is None
    with pytest.raises(StoreRejected):
        add(store, clock, idempotency_key="key")


def test_a_servers_actions_come_newest_first_page_by_page(store: Store, clock: FakeClock) -> None:
    rows = []
    for _ in range(3):
        rows += [add(store, clock), add(store, clock)]  # two at the same moment: the id decides
        clock.advance(1)
    stranger = add(store, clock, server=OTHER_SERVER)
    with store.read() as c:
        everything = actions.list_actions_of_server(c, SERVER)
        assert everything == sorted(rows, key=lambda row: (row.accepted_at, row.id), reverse=True)
        pages, marker = [], None
        while page := actions.list_actions_of_server(c, SERVER, actions.Page(limit=4, marker=marker)):
            pages.append(page)
            marker = page[-1].id
        assert [len(page) for page in pages] == [4, 2]
        assert pages[0] + pages[1] == everything
        assert actions.list_actions_of_server(c, SERVER, actions.Page(limit=0)) == []
        assert (
            len(
                actions.list_actions_of_server(c, SERVER, actions.Page(changes_since=rows[2].updated_at, changes_before=rows[2].updated_at))
            )
            == 2
        )
        with pytest.raises(LookupError):
            actions.list_actions_of_server(c, SERVER, actions.Page(marker=stranger.id))


def test_an_accepted_action_is_castable_once_its_hosts_agent_is_known(store: Store, clock: FakeClock) -> None:
    action = add(store, clock)
    assert claim(store, clock) == []
    FakeHost(store, clock, "a").beat(full=True)
    assert claim(store, clock) == [action.id]


@pytest.mark.usefixtures("host")
def test_at_most_one_action_of_a_host_is_leased(store: Store, clock: FakeClock) -> None:
    FakeHost(store, clock, "b").beat(full=True)
    first = add(store, clock)
    clock.advance(0.001)
    second = add(store, clock, server=OTHER_SERVER)
    elsewhere = add(store, clock, host="b")
    assert set(claim(store, clock)) == {first.id, elsewhere.id}
    assert claim(store, clock, "two") == []
    assert release(store, first)
    assert claim(store, clock, "two") == [first.id]  # it has waited longest, nothing was cast
    assert not release(store, first, "one")
    assert release(store, first, "two")
    assert second.id not in claim(store, clock, limit=1)


@pytest.mark.usefixtures("host")
def test_the_lease_of_a_dead_dispatcher_runs_out(store: Store, clock: FakeClock) -> None:
    action = add(store, clock, deadline=at(clock, 300))
    claim(store, clock)
    clock.advance(30)
    assert claim(store, clock, "two") == [action.id]
    assert record(store, clock, action) is None, "the lease is somebody else's now"


def test_a_cast_action_is_castable_again_after_silence_or_a_restart_only(store: Store, clock: FakeClock, host: FakeHost) -> None:
    action = add(store, clock)
    cast(store, clock, action)
    assert claim(store, clock) == []
    clock.advance(4.9)
    assert claim(store, clock) == []
    clock.advance(0.1)
    cast(store, clock, action)
    assert claim(store, clock) == []
    host.incarnation = 2
    host.beat(full=True)
    assert claim(store, clock) == [action.id]


@pytest.mark.usefixtures("host")
def test_an_action_that_was_reported_ended_or_is_late_is_never_castable(store: Store, clock: FakeClock) -> None:
    for state in ("received", "started", "ended"):
        add(store, clock, state=state)
    add(store, clock, deadline=clock.now())
    assert claim(store, clock) == []


@pytest.mark.usefixtures("host")
def test_a_cast_is_recorded_only_while_it_may_be_tried(store: Store, clock: FakeClock) -> None:
    action = add(store, clock)
    assert record(store, clock, action) is None, "not leased"
    claim(store, clock)
    clock.advance(29.9)
    assert record(store, clock, action) is not None
    clock.advance(0.1)
    assert record(store, clock, action) is None, "the deadline is now"


@pytest.mark.usefixtures("host")
def test_the_first_cast_binds_the_action_to_its_journal_for_good(store: Store, clock: FakeClock) -> None:
    action = add(store, clock)
    claim(store, clock)
    first = record(store, clock, action, journal_id="j1", incarnation=1)
    second = record(store, clock, action, journal_id="j2", incarnation=7)
    assert first is not None
    assert second is not None
    assert (first.journal_id, first.cast_count) == ("j1", 1)
    assert (second.journal_id, second.cast_incarnation, second.cast_count) == ("j1", 7, 2)
    assert replace(second, lease_until=None) == replace(get(store, action), lease_until=None)


@pytest.mark.usefixtures("host")
def test_the_next_cast_is_due_now_later_or_never(store: Store, clock: FakeClock) -> None:
    def find_next() -> object:
        with store.read() as c:
            return casts.find_next_cast_at(c, now=clock.now(), received_timeout=TIMEOUT)

    assert find_next() is None
    action = add(store, clock)
    assert find_next() == clock.now()
    cast(store, clock, action)
    assert find_next() == at(clock, 5)
    clock.advance(30)
    assert find_next() is None


@pytest.mark.usefixtures("host")
def test_the_gateway_ends_expired_only_what_was_certainly_never_delivered(store: Store, clock: FakeClock) -> None:
    untried, returned, perhaps = (add(store, clock, host=host) for host in ("x", "a", "y"))
    cast(store, clock, returned)
    with store.write() as c:
        casts.record_undelivered(c, returned.id)
        casts.record_undelivered(c, returned.id)  # one cast cannot come back twice
    assert get(store, returned).unroutable_count == 1
    FakeHost(store, clock, "y").beat(full=True)
    cast(store, clock, perhaps)
    expired = Ending.EXPIRED, Code.DEADLINE_PASSED
    assert [end(store, clock, action, *expired) for action in (untried, returned, perhaps)] == [True, True, False]
    assert end(store, clock, perhaps, Ending.UNKNOWN, Code.NOT_REPORTED)
    assert get(store, perhaps).decided_by == "gateway"


@pytest.mark.parametrize("state", ["received", "started"])
def test_the_gateway_calls_unknown_what_the_agent_has(store: Store, clock: FakeClock, state: str) -> None:
    action = add(store, clock, state=state)
    assert not end(store, clock, action, Ending.EXPIRED, Code.DEADLINE_PASSED)
    assert not end(store, clock, action, Ending.FAILED, Code.NOT_SUPPORTED)
    assert end(store, clock, action, Ending.UNKNOWN, Code.NOT_REPORTED)


def test_an_ending_by_the_gateway_is_final_for_the_gateway_and_is_told_once(store: Store, clock: FakeClock) -> None:
    action = add(store, clock, global_request_id="req-x")
    assert end(store, clock, action, Ending.FAILED, Code.NOT_SUPPORTED)
    assert not end(store, clock, action, Ending.UNKNOWN, Code.NOT_REPORTED)
    with store.read() as c:
        (event,) = list_outbox_events(c)
    told = ActionEnded.from_wire(event.payload)
    assert (told.action_id, told.ending, told.code, told.decided_by, told.host) == (action.id, "failed", "not_supported", "gateway", "a")
    assert told.global_request_id == "req-x"
    ended = get(store, action)
    assert (ended.state, ended.ended_at, ended.recorded_at, ended.updated_at) == ("ended", clock.now(), clock.now(), clock.now())


def test_open_actions_past_their_deadline_come_earliest_first(store: Store, clock: FakeClock) -> None:
    late = add(store, clock, deadline=at(clock, 2), state="started")
    early = add(store, clock, deadline=at(clock, 1))
    add(store, clock, deadline=at(clock, 1), state="ended")
    add(store, clock, deadline=at(clock, 9))
    clock.advance(3)
    with store.read() as c:
        assert endings.list_past_deadline(c, now=clock.now(), begun_dumps_take=timedelta(hours=1), limit=9) == [early, late]
        assert actions.count_open(c) == 3


def test_a_begun_memory_dump_is_past_its_deadline_only_when_its_own_time_is_over(store: Store, clock: FakeClock) -> None:
    """Others must not wait behind hundreds of them."""
    dump = add(store, clock, kind="take_host_dump", deadline=at(clock, 1), state="started")
    waiting = add(store, clock, kind="take_host_dump", deadline=at(clock, 2), state="received")
    for seconds, due in ((59, [waiting]), (2, [dump, waiting])):
        clock.advance(seconds)
        with store.read() as c:
            found = endings.list_past_deadline(c, now=clock.now(), begun_dumps_take=timedelta(seconds=60), limit=9)
        assert found == due


def find_blocking(store: Store, clock: FakeClock, holdoff: timedelta = HOLDOFF) -> str | None:
    with store.read() as c:
        row = actions.find_blocking_crash_dump(c, SERVER, now=clock.now(), holdoff=holdoff)
    return None if row is None else row.id


def test_an_open_crash_dump_blocks_another_one(store: Store, clock: FakeClock) -> None:
    assert find_blocking(store, clock) is None
    first = add(store, clock, state="started")
    clock.advance(1)
    add(store, clock)
    add(store, clock, server=OTHER_SERVER)
    assert find_blocking(store, clock) == first.id
    assert find_blocking(store, clock, timedelta(0)) == first.id


@pytest.mark.parametrize(("ending", "blocks"), [("succeeded", True), ("unknown", True), ("failed", False), ("expired", False)])
def test_a_signal_that_was_perhaps_sent_blocks_for_the_holdoff(store: Store, clock: FakeClock, ending: str, blocks: bool) -> None:
    action = add(store, clock, state="ended", ending=ending, signalled_at=at(clock, 1), ended_at=at(clock, 1.5))
    clock.advance(2)
    assert find_blocking(store, clock) == (action.id if blocks else None)
    clock.advance(598.9)
    assert find_blocking(store, clock) == (action.id if blocks else None)
    assert find_blocking(store, clock, timedelta(0)) is None
    clock.advance(0.1)
    assert find_blocking(store, clock) is None


@pytest.mark.parametrize(
    ("observation", "blocks"),
    [(None, True), ("guest_panicked", True), ("nothing_seen_yet", True), ("guest_rebooted", False), ("guest_stopped", False)],
)
def test_the_holdoff_ends_when_the_guest_was_seen_to_reboot_or_stop(
    store: Store, clock: FakeClock, observation: str | None, blocks: bool
) -> None:
    action = add(store, clock, state="ended", ending="succeeded", ended_at=clock.now(), observation=observation)
    assert find_blocking(store, clock) == (action.id if blocks else None)


def test_an_nmi_that_waits_in_a_paused_server_blocks_until_it_has_fired_and_the_holdoff_is_over(
    store: Store, clock: FakeClock, host: FakeHost
) -> None:
    host.put(power_state=PowerState.PAUSED)
    host.beat()
    action = add(store, clock, state="ended", ending="succeeded", ended_at=clock.now(), observation="pending_until_resume")
    clock.advance(86_400)
    assert find_blocking(store, clock) == action.id
    host.put(power_state=PowerState.RUNNING)
    host.beat()
    clock.advance(599.9)
    assert find_blocking(store, clock) == action.id
    assert find_blocking(store, clock, timedelta(0)) is None
    clock.advance(0.1)
    assert find_blocking(store, clock) is None


def test_a_dump_stands_still_with_its_server(store: Store, clock: FakeClock) -> None:
    action = add(store, clock, state="ended", ending="succeeded", signalled_at=clock.now(), ended_at=clock.now())
    paused_at = at(clock, 599.9)
    clock.advance(86_400)
    with store.read() as c:
        blocking = actions.find_blocking_crash_dump(c, SERVER, now=clock.now(), holdoff=HOLDOFF, stands_still_since=paused_at)
    assert blocking is not None
    assert blocking.id == action.id


def test_the_holdoff_ends_when_the_server_stops_even_if_its_event_was_lost(store: Store, clock: FakeClock, host: FakeHost) -> None:
    host.put()
    host.beat()
    action = add(store, clock, state="ended", ending="succeeded", ended_at=clock.now(), observation="guest_panicked")
    clock.advance(1)
    assert find_blocking(store, clock) == action.id
    host.put(power_state=PowerState.SHUTDOWN)
    host.beat()
    assert find_blocking(store, clock) is None
