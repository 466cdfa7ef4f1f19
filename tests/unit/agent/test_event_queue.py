"""What drivers tell while the journal has no room for hours: bounded, told again where a log keeps it, and never missed in silence."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.models import Observation, PowerState
from compute_agent.drivers.bmc.events import BmcEvents
from compute_agent.drivers.errors import EventNotTaken
from compute_agent.drivers.fake_server import NmiEffect
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from compute_agent.event_queue import EventQueue, Gap
from tests.fakes import FakeClock
from tests.unit.agent.observer_bench import Bench
from tests.unit.agent.test_journal_full import fill_disk, free_disk

MOST = 3
AT = FakeClock().now()
PATIENCE = 10.0


def make_event(kind: DriverEventKind = DriverEventKind.STOPPED, *, server: str | None = "s", cursor: str | None = None) -> DriverEvent:
    return DriverEvent(kind, server, AT, "reason", cursor=cursor)


def make_nmi(server: str = "s", *, seconds: float = 0, cursor: str | None = None) -> DriverEvent:
    return DriverEvent(DriverEventKind.WATCHDOG_FIRED, server, AT + timedelta(seconds=seconds), "inject-nmi", cursor=cursor)


@pytest.fixture
def queue() -> EventQueue:
    return EventQueue(MOST)


def fill(queue: EventQueue) -> None:
    for _ in range(MOST):
        queue.put(make_event())


def take_gap(queue: EventQueue) -> Gap:
    for _ in range(MOST):
        assert not isinstance(queue.take(0), Gap)
    gap = queue.take(0)
    assert isinstance(gap, Gap)
    return gap


class TestQueue:
    def test_what_finds_no_room_is_counted_in_its_place(self, queue: EventQueue) -> None:
        fill(queue)
        for _ in range(1000):
            queue.put(make_event(server=None))
        gap = take_gap(queue)
        assert (gap.since, gap.count) == (AT, 1000)
        assert queue.is_empty()

    def test_each_gap_stands_where_its_events_were(self, queue: EventQueue) -> None:
        fill(queue)
        queue.put(make_event())
        queue.take(0)
        queue.take(0)
        queue.put(make_event(DriverEventKind.STARTED))
        queue.put(make_event())
        kinds = []
        while (waiting := queue.take(0)) is not None:
            kinds.append(type(waiting) if not isinstance(waiting, DriverEvent) else waiting.kind)
        assert kinds == [DriverEventKind.STOPPED, Gap, DriverEventKind.STARTED, Gap]

    def test_what_a_log_keeps_is_refused_and_nothing_of_it_is_missed(self, queue: EventQueue) -> None:
        fill(queue)
        with pytest.raises(EventNotTaken):
            queue.put(make_event(cursor="7"))
        assert take_gap(queue).count == 0
        queue.put(make_event(cursor="7"))
        assert queue.take(0) == make_event(cursor="7")

    def test_a_comparison_without_room_is_part_of_the_one_after_the_gap(self, queue: EventQueue) -> None:
        fill(queue)
        queue.put_comparison(frozenset({"s"}), AT)
        assert take_gap(queue).count == 0

    def test_the_last_nmi_of_each_server_is_kept_and_holds_off_until_it_is_settled(self, queue: EventQueue) -> None:
        fill(queue)
        for seconds in (1, 2, 3):
            queue.put(make_nmi(seconds=seconds))
        queue.put(make_nmi("t"))
        gap = take_gap(queue)
        assert gap.nmis == {"s": make_nmi(seconds=3), "t": make_nmi("t")}
        assert gap.count == 2
        assert queue.has_untold_nmi("s")
        queue.settle(gap.nmis["s"])
        assert not queue.has_untold_nmi("s")
        assert queue.has_untold_nmi("t")

    def test_a_refused_nmi_holds_off_until_its_log_was_read_again(self, queue: EventQueue) -> None:
        fill(queue)
        with pytest.raises(EventNotTaken):
            queue.put(make_nmi(cursor="7"))
        take_gap(queue)
        assert queue.has_untold_nmi("s")
        queue.put(make_nmi(cursor="7"))
        assert queue.has_untold_nmi("s")
        queue.settle(make_nmi(cursor="7"))
        assert not queue.has_untold_nmi("s")

    @pytest.mark.parametrize("event", [make_event(cursor="9"), make_event(DriverEventKind.UNDEFINED)])
    def test_a_refused_nmi_that_its_log_has_no_more_holds_off_no_longer(self, queue: EventQueue, event: DriverEvent) -> None:
        fill(queue)
        with pytest.raises(EventNotTaken):
            queue.put(make_nmi(cursor="7"))
        take_gap(queue)
        queue.put(make_event())
        assert queue.has_untold_nmi("s")
        queue.put(event)
        assert not queue.has_untold_nmi("s")

    @pytest.mark.parametrize("put", [lambda queue: queue.put(make_event()), lambda queue: queue.put_comparison(frozenset({"s"}), AT)])
    def test_who_waits_is_woken(self, queue: EventQueue, put: Callable[[EventQueue], None]) -> None:
        taken = []
        thread = threading.Thread(target=lambda: taken.append(queue.take(PATIENCE)))
        thread.start()
        put(queue)
        thread.join(PATIENCE)
        assert taken[0] is not None

    def test_who_waits_for_nothing_is_told_so(self, queue: EventQueue) -> None:
        assert queue.take(0.001) is None


class TestObserver:
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        bench = Bench(tmp_path / "journal.sqlite")
        bench.observer._events = EventQueue(MOST)
        return bench

    def overflow(self, bench: Bench, server: str) -> None:
        fill_disk(bench.journal)
        for _ in range(MOST):
            bench.hypervisor.reboot(server)
            bench.clock.advance(10)
        bench.hypervisor.stop(server)

    def test_what_was_missed_is_found_by_comparing_and_that_it_was_missed_is_told(self, bench: Bench) -> None:
        server = bench.make_server()
        self.overflow(bench, server)
        free_disk(bench.journal)
        bench.drain()
        assert bench.find_server(server).power_state is PowerState.SHUTDOWN
        missed = bench.events("agent.events_missed")
        assert [event.count for event in missed] == [1]
        assert [event.observed_late for event in bench.events("server.stopped")] == [True]

    def test_a_gap_that_finds_no_room_is_taken_again_and_told_once(self, bench: Bench) -> None:
        server = bench.make_server()
        self.overflow(bench, server)
        bench.observer.enqueue(make_nmi(server))
        free_disk(bench.journal)
        for _ in range(MOST):
            assert bench.observer.step(0)
        fill_disk(bench.journal)
        for _ in range(2):
            with pytest.raises(Exception, match="full"):
                bench.observer.step(0)
        assert bench.observer.has_untold_nmi(server)
        free_disk(bench.journal)
        bench.drain()
        assert len(bench.events("server.watchdog.fired")) == len(bench.events("agent.events_missed")) == 1
        assert not bench.observer.has_untold_nmi(server)

    def test_silence_is_not_said_of_a_guest_while_what_it_did_waits(self, bench: Bench) -> None:
        action = bench.signal(bench.make_server(effect=NmiEffect.SURVIVE))
        bench.drain()
        bench.hypervisor.reboot(bench.get(action).request.server)
        bench.clock.advance(3600)
        bench.observer.check_timers()
        bench.drain()
        bench.observer.check_timers()
        assert bench.observe(action) == (Observation.GUEST_REBOOTED, True)

    def test_a_reboot_after_the_clock_was_set_back_is_no_echo_of_one_before(self, bench: Bench) -> None:
        server = bench.make_server()
        for _ in range(2):
            bench.hypervisor.reboot(server)
            bench.drain()
            bench.clock.advance(10)
            bench.clock.step(-3600)
        assert len(bench.events("server.rebooted")) == 2


def test_a_log_of_a_machine_whose_event_was_refused_is_read_again_from_the_same_place() -> None:
    room = False

    def listen(event: DriverEvent) -> None:
        if not room:
            raise EventNotTaken(event.server, "no room")

    events = BmcEvents()
    events.subscribe(listen, {"s": "6"})
    assert not events.tell([make_event(cursor="7")])
    assert events.find_cursor("s") == "6"
    room = True
    assert events.tell([make_event(cursor="7")])
    assert events.find_cursor("s") == "7"
