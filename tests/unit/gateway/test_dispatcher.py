"""The dispatcher's step: who is cast to, when, how often, and what is written before it is tried."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from api_gateway.cast_probing import FAILURES_IN_A_ROW
from api_gateway.cast_slots import ImmediateCasts
from api_gateway.dispatcher import Dispatcher
from api_gateway.fleet_versions import FleetVersions
from api_gateway.pins import parse_pin
from api_gateway.rpc_versions import Speech
from api_gateway.store import Connection, Store, StoreBusy, StoreUnavailable, actions, agents, outbox
from compute_agent.contract import versions
from compute_agent.contract.models import ActionRequest
from compute_agent.contract.rpcapi import Unroutable, VersionTooLow
from tests.fakes import FakeClock
from tests.unit.gateway.engine_parts import (
    HOST,
    JOURNAL,
    AgentVoice,
    HeldCasts,
    NotingCaster,
    add_action,
    add_agent,
    get_action,
    open_store,
)


@pytest.fixture
def slots() -> HeldCasts:
    return HeldCasts()


@pytest.fixture
def held(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice, slots: HeldCasts) -> Dispatcher:
    """Whose casts are tried when ``slots`` are told to."""
    return Dispatcher(store, caster, clock, owner="one", slots=slots)


def test_an_accepted_action_is_cast_once_with_all_that_the_agent_needs(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    action = add_action(store, clock)
    dispatcher.step()
    dispatcher.step()
    (request,) = caster.requests
    assert (request.id, request.host, request.deadline, request.journal_id) == (action.id, HOST, action.deadline, JOURNAL)
    assert request.sent_at == clock.now()


def test_who_is_woken_for_nothing_goes_on_waiting_and_else_casts_once(
    held: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, slots: HeldCasts
) -> None:
    assert held.step(woken=True) is None
    action = add_action(store, clock)
    assert held.step(woken=True) is None
    assert held.step(woken=True) == pytest.approx(5.0)  # its cast is on its way: who is not heard of by then is cast to again
    slots.finish()
    held.step(woken=True)
    assert [request.id for request in caster.requests] == [action.id]


def test_the_cast_is_committed_before_it_is_tried(dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock) -> None:
    """A process that dies during the cast must leave the action as perhaps delivered."""
    action = add_action(store, clock)
    seen = []
    caster.during_cast = lambda request: seen.append(get_action(store, action))
    dispatcher.step()
    assert seen[0].cast_count == 1
    assert seen[0].perhaps_delivered
    assert seen[0].journal_id == JOURNAL


def test_an_action_without_word_is_cast_again_with_the_same_id_and_deadline_until_the_agent_reports(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    add_action(store, clock)
    assert dispatcher.step() == pytest.approx(5.0)
    clock.advance(4.9)
    dispatcher.step()
    assert len(caster.requests) == 1
    clock.advance(0.2)
    dispatcher.step()
    first, second = caster.requests
    assert first.fingerprint() == second.fingerprint()
    assert second.sent_at > first.sent_at


def test_hosts_that_do_not_answer_keep_no_slot_from_what_was_never_cast(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    """Each with hundreds of open actions, whose casts are repeated: the oldest first, a new one would wait behind all of them."""
    slots = HeldCasts(2)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
    for number in range(4):
        add_agent(store, AgentVoice(clock, f"dead-{number}", f"journal-{number}"), clock)
        add_action(store, clock, host=f"dead-{number}", deadline=300)
    for _ in range(2):
        dispatcher.step()
        slots.finish()
    clock.advance(6)
    fresh = add_action(store, clock)
    dispatcher.step()
    slots.finish()
    assert fresh.id in [request.id for request in caster.requests[4:]]


def test_what_became_of_casts_is_written_with_what_is_claimed_next(
    store: Store, caster: NotingCaster, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction waits for the disk: a busy fleet's casts have less than one each."""
    slots = HeldCasts(2)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
    for number in range(4):
        add_agent(store, AgentVoice(clock, f"host-{number}", f"journal-{number}"), clock)
        add_action(store, clock, host=f"host-{number}")
    dispatcher.step()
    slots.finish()
    write = mock.Mock(side_effect=store.write)
    monkeypatch.setattr(store, "write", write)
    dispatcher.step()
    assert len(slots.jobs) == 2
    assert write.call_count == 1
    with store.read() as c:
        assert [actions.get_action(c, request.id).lease_owner for request in caster.requests] == [None, None]


def test_what_could_not_be_written_of_a_cast_is_written_later(
    held: Dispatcher, slots: HeldCasts, store: Store, caster: NotingCaster, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an action of which every cast came back would end as unknown, and its host would wait for the lease."""
    action = add_action(store, clock)
    held.step()
    caster.error = Unroutable("no queue")
    slots.finish()
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", mock.Mock(side_effect=StoreBusy("another thread writes")))
        with pytest.raises(StoreBusy):
            held.step()
    held.finish()
    assert not get_action(store, action).perhaps_delivered
    assert get_action(store, action).lease_owner is None


def test_a_cast_that_came_back_counts_once_even_if_nobody_knows_whether_that_was_written(
    held: Dispatcher, slots: HeldCasts, store: Store, caster: NotingCaster, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two casts would have come back of which one perhaps did not, and the gateway would call the action expired."""
    action = add_action(store, clock)
    held.step()
    caster.error = TimeoutError("perhaps delivered")
    slots.finish()
    held.step()
    clock.advance(2.0)
    held.step()
    caster.error = Unroutable("no queue")
    slots.finish()

    @contextmanager
    def commit_unanswered() -> Iterator[Connection]:
        with store_write() as c:
            yield c
        raise StoreUnavailable("the answer was lost")

    store_write = store.write
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", commit_unanswered)
        with pytest.raises(StoreUnavailable):
            held.step()
    held.finish()
    assert (get_action(store, action).cast_count, get_action(store, action).unroutable_count) == (2, 1)
    assert get_action(store, action).perhaps_delivered


def test_nothing_is_cast_past_its_deadline(dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock) -> None:
    add_action(store, clock, deadline=3.0)
    clock.advance(3.0)
    assert dispatcher.step() is None
    assert caster.requests == []


def test_a_new_incarnation_of_the_agent_is_cast_to_at_once_and_bound_to_the_first_journal(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    """Another journal must see that it is not the one: a lost journal must not mean a second NMI."""
    add_action(store, clock)
    dispatcher.step()
    clock.advance(1)
    voice.incarnation, voice.journal = 2, "journal-2"
    add_agent(store, voice, clock)
    dispatcher.step()
    assert [request.journal_id for request in caster.requests] == [JOURNAL, JOURNAL]


def test_a_returned_cast_is_known_not_to_be_delivered(dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock) -> None:
    action = add_action(store, clock)
    caster.error = Unroutable("no queue")
    dispatcher.step()
    assert not get_action(store, action).perhaps_delivered
    assert get_action(store, action).cast_count == 1


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("what"), TimeoutError()])
def test_any_other_exception_means_perhaps_delivered_and_is_tried_again(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, error: Exception
) -> None:
    action = add_action(store, clock)
    caster.error = error
    dispatcher.step()
    assert get_action(store, action).perhaps_delivered
    clock.advance(5.1)
    dispatcher.step()
    assert len(caster.requests) == 2


def test_a_cast_that_failed_is_tried_again_well_before_an_agent_would_have_answered(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    """A broker that was restarted is back within seconds; who waits for an answer of 5 s makes its return that much later."""
    add_action(store, clock)
    caster.error = OSError("connection refused")
    pauses = []
    for _ in range(5):
        dispatcher.step()
        pauses.append(dispatcher.step())
        clock.advance(pauses[-1] or 0.0)
    caster.error = None
    dispatcher.step()
    assert pauses == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert len(caster.requests) == 6
    assert dispatcher.step() == pytest.approx(5.0)


def test_a_host_whose_casts_fail_is_left_alone_for_a_moment_and_the_others_are_cast_to(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    caster.error = OSError("its queue has no leader")
    add_action(store, clock)
    add_action(store, clock)
    dispatcher.step()
    caster.error = None
    add_agent(store, AgentVoice(clock, "host-2", "journal-2"), clock)
    add_action(store, clock, host="host-2")
    dispatcher.step()
    assert [request.host for request in caster.requests] == [HOST, "host-2"]
    clock.advance(0.25)
    dispatcher.step()
    assert [request.host for request in caster.requests] == [HOST, "host-2", HOST]


def test_a_broker_that_is_away_makes_no_hot_loop(dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock) -> None:
    add_action(store, clock)
    caster.error = OSError("connection refused")
    for _ in range(50):
        dispatcher.step()
    assert len(caster.requests) == 1


def test_while_nothing_comes_through_one_cast_at_a_time_finds_out_for_all(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A fleet's open actions, each tried every second, would keep the store busy and fill the log for as long as the broker is away."""
    for number in range(20):
        add_agent(store, AgentVoice(clock, f"host-{number}", f"journal-{number}"), clock)
        add_action(store, clock, host=f"host-{number}", deadline=300)
    caster.error = OSError("connection refused")
    dispatcher.step()
    first = len(caster.requests)
    for _ in range(40):
        clock.advance(0.25)
        dispatcher.step()
    assert len(caster.requests) == first + 40
    assert caplog.text.count("casts to agents") == 1
    caster.error = None
    for _ in range(5):
        clock.advance(0.25)
        dispatcher.step()
    assert {request.host for request in caster.requests[first + 40 :]} == {f"host-{number}" for number in range(20)}


def test_a_probe_that_is_under_way_is_the_only_cast(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    slots = HeldCasts(8)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
    for number in range(8):
        add_agent(store, AgentVoice(clock, f"host-{number}", f"journal-{number}"), clock)
        add_action(store, clock, host=f"host-{number}", deadline=300)
    caster.error = OSError("connection refused")
    dispatcher.step()
    slots.finish()
    clock.advance(1)
    for _ in range(3):
        dispatcher.step()
    assert len(slots.jobs) == 1


def test_what_the_driver_cannot_do_ends_without_a_cast(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    voice.inject_nmi = False
    add_agent(store, voice, clock)
    action = add_action(store, clock)
    dispatcher.step()
    ended = get_action(store, action)
    assert (ended.ending, ended.code, ended.decided_by) == ("failed", "not_supported", "gateway")
    assert "inject_nmi" in (ended.reason or "")
    assert caster.requests == []
    with store.read() as c:
        assert [row.event_type for row in outbox.list_unsent(c)] == ["action.ended"]


def test_what_ends_without_a_cast_keeps_nothing_behind_it_waiting(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    """Neither until the next look nor until its lease ends: more of them than end in one transaction, and one that can be cast."""
    broken = [add_action(store, clock, server="not-a-uuid") for _ in range(150)]
    clock.advance(0.001)
    good = add_action(store, clock)
    steps = 1
    while dispatcher.step() == 0.0:
        steps += 1
    assert {get_action(store, action).code for action in broken} == {"invalid_request"}
    assert [request.id for request in caster.requests] == [good.id]
    assert steps == 2
    assert all(get_action(store, action).lease_owner is None for action in broken)


def test_a_driver_exchanged_after_the_first_cast_does_not_make_the_gateway_say_that_nothing_was_sent(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    action = add_action(store, clock)
    dispatcher.step()
    voice.inject_nmi, voice.incarnation = False, 2
    add_agent(store, voice, clock)
    dispatcher.step()
    assert get_action(store, action).ending is None
    assert len(caster.requests) == 2


def _tell_version(store: Store, rpc_version: str) -> None:
    with store.write() as c:
        c.exec_driver_sql("UPDATE agents SET rpc_version = ?", (rpc_version,))


def test_an_action_whose_agent_was_exchanged_for_one_that_is_too_old_ends_at_once(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    action = add_action(store, clock)
    _tell_version(store, versions.NO_RPC_VERSION)
    dispatcher.step()
    ended = get_action(store, action)
    assert (ended.ending, ended.code, caster.requests) == ("failed", "not_supported", [])
    assert f"The agent on {HOST} " in str(ended.reason)
    assert str(ended.reason).endswith("Upgrade that agent. Nothing was sent.")


def test_one_that_was_perhaps_delivered_before_is_not_said_to_have_been_sent_nowhere(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    action = add_action(store, clock)
    dispatcher.step()
    _tell_version(store, versions.NO_RPC_VERSION)
    clock.advance(6)
    dispatcher.step()
    assert (get_action(store, action).ending, len(caster.requests)) == (None, 2)


def test_what_the_client_refuses_to_send_was_not_delivered_and_is_no_word_of_the_broker(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    hosts = [f"host-{number}" for number in range(FAILURES_IN_A_ROW + 1)]
    actions = []
    caster.error = VersionTooLow("too old")
    for host in hosts:
        add_agent(store, AgentVoice(clock, host=host, journal=f"journal-of-{host}"), clock)
        actions.append(add_action(store, clock, host=host))
        dispatcher.step()
    assert [get_action(store, action).perhaps_delivered for action in actions] == [False] * len(hosts)
    assert len(caster.requests) == len(hosts), "as many as there are slots, no probing"


def test_what_cannot_be_sent_because_the_store_is_busy_was_not_delivered_and_is_cast_again_at_once(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    """What its agent takes is read between the record of a cast and the cast."""
    action = add_action(store, clock)
    caster.error = StoreBusy("another one writes")
    dispatcher.step()
    assert not get_action(store, action).perhaps_delivered
    caster.error = None
    clock.advance(0.3)
    dispatcher.step()
    assert (len(caster.requests), get_action(store, action).perhaps_delivered) == (2, True)


def test_an_automatic_pin_holds_for_what_is_cast_too(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    """An agent of an older release that joins between a request and its cast."""
    speech = Speech(parse_pin("auto"), FleetVersions(store, clock))
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=ImmediateCasts(), speech=speech)
    first = add_action(store, clock)
    dispatcher.step()
    assert [request.id for request in caster.requests] == [first.id]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "get_version_of_method", lambda _method: versions.RPC_API_VERSION)
        add_agent(store, AgentVoice(clock, host="old", journal="journal-of-old"), clock)
        with store.write() as c:
            c.exec_driver_sql("UPDATE agents SET rpc_version = ? WHERE host = 'old'", (versions.RPC_HISTORY[0].number,))
        clock.advance(2)
        second = add_action(store, clock)
        dispatcher.step()
    assert get_action(store, second).code == "not_supported"
    assert "crashcart-manage versions" in str(get_action(store, second).reason)


def test_an_action_for_a_host_that_never_spoke_waits_and_keeps_nobody_else_waiting(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    for number in range(5):
        add_action(store, clock, host=f"silent-{number}")
    action = add_action(store, clock)
    slots = HeldCasts(1)
    narrow = Dispatcher(store, caster, clock, owner="narrow", slots=slots)
    narrow.step()
    slots.finish()
    assert [request.id for request in caster.requests] == [action.id]


def test_one_cast_per_host_is_in_flight_and_a_stuck_one_delays_nobody_else(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    slots = HeldCasts(4)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots, lease=2.0, received_timeout=1.0)
    add_action(store, clock, deadline=300)
    add_action(store, clock, deadline=300)
    dispatcher.step()
    clock.advance(100)  # the lease ran out long ago; the cast is still held
    add_agent(store, AgentVoice(clock, "host-2", "journal-2"), clock)
    other = add_action(store, clock, host="host-2")
    dispatcher.step()
    dispatcher.step()
    assert len(slots.jobs) == 2
    slots.finish()
    assert [request.host for request in caster.requests] == [HOST, "host-2"]
    assert caster.requests[1].id == other.id


def test_the_next_action_of_a_host_follows_when_its_cast_is_done(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice
) -> None:
    slots = HeldCasts(4)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots)
    expected = {add_action(store, clock).id, add_action(store, clock).id}
    dispatcher.step()
    dispatcher.step()
    assert len(caster.requests) == 0
    slots.finish()
    dispatcher.step()
    slots.finish()
    assert {request.id for request in caster.requests} == expected


def test_without_a_free_slot_nothing_is_claimed(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    """What was never tried can still be called expired: it must not be counted as cast while it waits."""
    action = add_action(store, clock)
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=HeldCasts(0))
    assert dispatcher.step() is None
    assert get_action(store, action).cast_count == 0


def test_two_dispatchers_do_not_cast_one_action_twice(store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice) -> None:
    add_action(store, clock)
    held, other = HeldCasts(), HeldCasts()
    Dispatcher(store, caster, clock, owner="one", slots=held).step()
    Dispatcher(store, caster, clock, owner="two", slots=other).step()
    assert (len(held.jobs), len(other.jobs)) == (1, 0)


def test_a_store_that_is_busy_when_the_cast_is_done_only_costs_the_lease(
    store: Store, caster: NotingCaster, clock: FakeClock, voice: AgentVoice, tmp_path: Path
) -> None:
    slots = HeldCasts()
    dispatcher = Dispatcher(store, caster, clock, owner="one", slots=slots, lease=10.0)
    action = add_action(store, clock)
    dispatcher.step()
    somebody = open_store(tmp_path / "gateway.sqlite")
    with somebody.write():
        slots.jobs.pop()()
    somebody.dispose()
    clock.advance(11)
    dispatcher.step()
    slots.finish()
    assert get_action(store, action).cast_count == 2


def test_an_action_that_cannot_be_told_to_an_agent_ends_instead_of_blocking_the_others(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    broken = add_action(store, clock, server="not-a-uuid")
    dispatcher.step()
    good = add_action(store, clock)
    dispatcher.step()
    assert get_action(store, broken).code == "invalid_request"
    assert [request.id for request in caster.requests] == [good.id]


def test_the_deadline_a_dispatcher_waits_for_is_that_of_the_earliest_recast(
    dispatcher: Dispatcher, store: Store, clock: FakeClock, caster: NotingCaster
) -> None:
    assert dispatcher.step() is None
    add_action(store, clock)
    dispatcher.step()
    clock.advance(2)
    assert dispatcher.step() == pytest.approx(3.0)


def test_what_is_cast_is_a_request_that_the_contract_accepts(
    dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock
) -> None:
    add_action(store, clock)
    dispatcher.step()
    assert ActionRequest.from_wire(caster.requests[0].to_wire()) == caster.requests[0]


def test_an_agent_that_is_down_is_cast_to_as_well(dispatcher: Dispatcher, store: Store, caster: NotingCaster, clock: FakeClock) -> None:
    """Its queue keeps the cast until it is back; whether that is before the deadline only the agent can say."""
    clock.advance(200)
    with store.write() as c:
        assert agents.mark_down(c, HOST, now=clock.now(), reason="silent")
    add_action(store, clock)
    dispatcher.step()
    assert len(caster.requests) == 1
