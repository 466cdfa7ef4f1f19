"""The simulation finds what it is there to find: each of these bugs, planted into the production code, breaks a promise in some seed."""

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from api_gateway.store.actions import ActionRow
from api_gateway.sweep import Sweep
from compute_agent import crash_dump
from compute_agent.action_queue import ActionQueue
from compute_agent.actions import Actions
from compute_agent.contract.models import ActionRequest
from compute_agent.contract.publisher import OutboxPump
from compute_agent.contract.watchdogs import Watchdog
from compute_agent.crash_dump import HoldOff
from compute_agent.drivers.models import DriverEvent
from compute_agent.dump_search import DumpSearch
from compute_agent.endpoint import Endpoint
from compute_agent.journal import ActionState, Journal, JournalledAction, JournalTransaction
from compute_agent.journal_firings import Firing, FiringStatements
from compute_agent.observer import Observer
from compute_agent.watch import Watch
from compute_agent.watchdog_actions import WatchdogChange
from tests.simulation.broker import Consumer, Faults
from tests.simulation.hypervisor import DriverFaults
from tests.simulation.plan import Plan
from tests.simulation.report import shrink_run
from tests.simulation.running import run_script
from tests.simulation.script import write_script
from tests.simulation.world import World

MOST_SEEDS = 40
MOST_SECONDS = 60.0
"""Of one processor, until a bug is found."""
SHRINKING_SECONDS = 60.0 if os.environ.get("CRASHCART_TEST_ALL") else 15.0

Plant = Callable[[pytest.MonkeyPatch], None]


def make_rough_plan(seed: int, **faults: Any) -> Plan:
    """A short, busy run with the faults that the bug needs."""
    usual: dict[str, Any] = {"duration": 60.0, "hosts": 1, "guests_per_host": 4, "actions": 25, "guest_moves": 10.0, "holdoff": 15.0}
    return dataclasses.replace(Plan(seed=f"planted-{seed}"), **{**usual, "gateway_holdoff": 0.0, **faults})


def run_an_action_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """``started`` is run again after a restart."""
    recover = Actions.recover

    def recover_too_much(self: Actions) -> list[str]:
        journal: Journal = self._journal
        with journal.transaction("planted") as transaction:
            transaction.execute("UPDATE actions SET state = 'received' WHERE state = 'started'")
            transaction.execute("DELETE FROM signals")
        return recover(self)

    monkeypatch.setattr(Actions, "recover", recover_too_much)


def forget_everything_at_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no journal: an agent begins with nothing."""
    recover = Actions.recover

    def recover_nothing(self: Actions) -> list[str]:
        with self._journal.transaction("planted") as transaction:
            for table in ("signals", "actions"):
                transaction.execute(f"DELETE FROM {table}")
        return recover(self)

    monkeypatch.setattr(Actions, "recover", recover_nothing)


def forget_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second cast of an action is taken for a new one."""
    take_up = Endpoint._take_up

    def take_up_as_new(self: Endpoint, request: ActionRequest) -> None:
        with self._journal.transaction("planted") as transaction:
            known = transaction.find_action(request.id)
            if known is not None and known.state is ActionState.ENDED:
                transaction.execute("DELETE FROM actions WHERE id = ?", request.id)
                transaction.execute("DELETE FROM signals WHERE action_id = ?", request.id)
                transaction.execute("UPDATE outbox SET action_id = NULL WHERE action_id = ?", request.id)
        take_up(self, request)

    monkeypatch.setattr(Endpoint, "_take_up", take_up_as_new)


def ignore_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is never checked."""
    monkeypatch.setattr(Actions, "_is_past_deadline", lambda self, action: False)


def check_deadline_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is checked before the server is looked up and ``started`` is committed, and not after."""
    carry_out, is_past_deadline = Actions._carry_out, Actions._is_past_deadline
    checked: set[str] = set()

    def carry_out_unchecked(self: Actions, action: JournalledAction, *arguments: Any, **options: Any) -> Any:
        checked.add(action.request.id)
        return carry_out(self, action, *arguments, **options)

    def is_past_deadline_at_first(self: Actions, action: JournalledAction) -> bool:
        return action.request.id not in checked and is_past_deadline(self, action)

    monkeypatch.setattr(Actions, "_carry_out", carry_out_unchecked)
    monkeypatch.setattr(Actions, "_is_past_deadline", is_past_deadline_at_first)


def mark_sent_before_the_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events count as sent when they are given to the broker."""

    def step(self: OutboxPump) -> int:
        entries = self._source.list_unsent(self._batch)
        if entries:
            self._source.mark_sent([entry.sequence for entry in entries])
            self._publisher.publish([entry.notification for entry in entries])
        return len(entries)

    monkeypatch.setattr(OutboxPump, "step", step)


def acknowledge_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder acknowledges what it has received before it has recorded it, and nobody looks for gaps."""
    receive = Consumer.receive

    def receive_and_acknowledge(self: Consumer, limit: int, timeout: float) -> list[bytes]:
        batch = receive(self, limit, timeout)
        self.acknowledge()
        return batch

    monkeypatch.setattr(Consumer, "receive", receive_and_acknowledge)
    forget_gaps(monkeypatch)


def forget_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never came is never asked for."""
    monkeypatch.setattr(Sweep, "ask_for_missing_events", lambda self: None)


def forget_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker has confirmed of the gateway's own counts as recorded, whatever an operator does to the recorder's queue."""
    monkeypatch.setattr(Sweep, "publish_lost_again", lambda self: None)


def record_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder does not look whether it knows an event."""
    from api_gateway.store import events

    monkeypatch.setattr(events, "_find_origins", lambda c, message_ids: {})


def call_it_expired_after_a_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway takes a cast that was perhaps delivered for one that was not."""
    monkeypatch.setattr(ActionRow, "perhaps_delivered", property(lambda self: False))


def forget_the_holdoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent signals again while a dump may still be running."""
    monkeypatch.setattr(HoldOff, "check", lambda self, transaction, server, advice: None)


def count_the_holdoff_from_the_handing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hold-off goes on while a server is paused: it is over when the NMI that waited fires at last."""
    monkeypatch.setattr(JournalTransaction, "discount_pause", lambda self, *arguments: None)
    monkeypatch.setattr(Watch, "_note_resume", lambda self, *arguments: None)
    monkeypatch.setattr(crash_dump, "STANDS_STILL", frozenset())


def accept_any_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An action that is bound to a lost journal is run by the next one."""
    monkeypatch.setattr(Endpoint, "_find_refusal", lambda self, request: None)
    check = Actions._check

    def check_unbound(self: Actions, action: Any) -> Any:
        request = action.request.model_copy(update={"journal_id": self._journal.journal_id})
        return check(self, dataclasses.replace(action, request=request))

    monkeypatch.setattr(Actions, "_check", check_unbound)


def run_two_of_a_server_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not wait for each other's driver call on the same server."""
    take = ActionQueue.take

    def take_and_release(self: ActionQueue, timeout: float | None) -> str | None:
        action_id = take(self, timeout)
        if action_id is not None:
            self.done(action_id)
        return action_id

    monkeypatch.setattr(ActionQueue, "take", take_and_release)
    forget_the_holdoff(monkeypatch)


def observe_after_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A final observation is followed by another one."""
    observe = JournalTransaction.observe

    def observe_again(self: JournalTransaction, action_id: str, *arguments: Any, **options: Any) -> bool:
        self.execute("UPDATE actions SET observation_final = 0 WHERE id = ?", action_id)
        return observe(self, action_id, *arguments, **options)

    def list_all(self: JournalTransaction, server: str | None = None) -> list[JournalledAction]:
        return self.list_actions(ActionState.ENDED, server)

    monkeypatch.setattr(JournalTransaction, "list_awaiting_observation", list_all)
    monkeypatch.setattr(JournalTransaction, "observe", observe_again)


def forget_the_watchdogs_nmi(monkeypatch: pytest.MonkeyPatch) -> None:
    """An NMI that a watchdog injected holds nothing off."""
    monkeypatch.setattr(FiringStatements, "_add_signal_of", lambda self, firing: None)


def forget_firings_at_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the life that told a firing waits for its outcome."""
    add_firing, list_open_firings = FiringStatements.add_firing, FiringStatements.list_open_firings
    own: dict[tuple[str, int], set[str]] = defaultdict(set)

    def add_and_remember(self: FiringStatements, *arguments: Any, **options: Any) -> Firing:
        firing = add_firing(self, *arguments, **options)
        own[self._origin.journal_id, self._origin.incarnation].add(firing.message_id)
        return firing

    def list_own(self: FiringStatements, server: str | None = None) -> list[Firing]:
        remembered = own[self._origin.journal_id, self._origin.incarnation]
        return [firing for firing in list_open_firings(self, server) if firing.message_id in remembered]

    monkeypatch.setattr(FiringStatements, "add_firing", add_and_remember)
    monkeypatch.setattr(FiringStatements, "list_open_firings", list_own)


def conclude_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers conclude a firing that the search for its dump has concluded, or will."""
    conclude_firing = FiringStatements.conclude_firing

    def conclude_again(self: FiringStatements, firing: Firing, *arguments: Any, **options: Any) -> bool:
        self.execute("UPDATE firings SET concluded_at = NULL WHERE message_id = ?", firing.message_id)
        return conclude_firing(self, firing, *arguments, **options)

    monkeypatch.setattr(FiringStatements, "conclude_firing", conclude_again)
    monkeypatch.setattr(DumpSearch, "is_looking", lambda self, firing: False)


def forget_what_the_server_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a change finds half done is taken for what the server had before."""
    put_back = WatchdogChange._put_back

    def put_back_what_is_there(self: WatchdogChange, action: JournalledAction, former: Watchdog, error: Any) -> Any:
        return put_back(self, action, self._look(action), error)

    monkeypatch.setattr(WatchdogChange, "_put_back", put_back_what_is_there)


def expire_what_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart a change that was begun counts as one that was not: its deadline ends it."""
    monkeypatch.setattr(WatchdogChange, "is_begun", lambda self, transaction, action: False)
    begin = JournalTransaction.begin_watchdog_change

    def begin_anew(self: JournalTransaction, action_id: str, former: Watchdog, at: datetime) -> None:
        self.end_watchdog_change(action_id)
        begin(self, action_id, former, at)

    monkeypatch.setattr(JournalTransaction, "begin_watchdog_change", begin_anew)


def keep_a_cursor_before_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log counts as read before what was in it is told."""
    take = Observer._take

    def take_later(self: Observer, event: DriverEvent) -> None:
        with self._journal.transaction("server.cursor") as transaction:
            self._keep_cursor(transaction, event)
        take(self, event)

    monkeypatch.setattr(Observer, "_take", take_later)


def keep_a_cursor_after_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a log is told before it counts as read."""
    take, keep_cursor = Observer._take, Observer._keep_cursor
    monkeypatch.setattr(Observer, "_keep_cursor", lambda self, transaction, event: None)

    def keep_later(self: Observer, event: DriverEvent) -> None:
        take(self, event)
        with self._journal.transaction("server.cursor") as transaction:
            keep_cursor(self, transaction, event)

    monkeypatch.setattr(Observer, "_take", keep_later)


def forget_who_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The silence of a server that nobody can hear is taken for its guest's."""
    monkeypatch.setattr(Watch, "is_blind_to", lambda self, server: self.is_blind)


_CHANGES: dict[str, Any] = {"actions": 0, "changes": 30, "guest_moves": 0.0, "deadlines": (2.0, 6.0), "driver": DriverFaults(slow=0.7)}

BUGS: list[tuple[Plant, dict[str, Any]]] = [
    (forget_everything_at_a_restart, {"agent_kills": 8.0, "driver": DriverFaults(slow=0.5)}),
    (run_an_action_twice, {"agent_kills": 8.0, "driver": DriverFaults(slow=0.5)}),
    (forget_duplicates, {"broker": Faults(cast_repeated=0.5, delay=0.5)}),
    (ignore_deadlines, {"broker": Faults(delay=0.5), "deadlines": (0.5, 5.0)}),
    (check_deadline_too_early, {"driver": DriverFaults(slow_read=0.9), "deadlines": (0.5, 3.0)}),
    (mark_sent_before_the_confirm, {"broker": Faults(publish_fails=0.3)}),
    (acknowledge_before_the_commit, {"crash_at_commit": 0.03}),
    (forget_gaps, {"purges": 30.0, "engine_kills": 6.0}),
    (forget_own_events, {"purges": 60.0, "gathering": 3.0, "cuts": 8.0, "deadlines": (0.5, 3.0)}),
    (record_twice, {"broker": Faults(event_repeated=0.3)}),
    (call_it_expired_after_a_delivery, {"broker": Faults(publish_fails=0.9), "cuts": 8.0, "deadlines": (0.5, 3.0)}),
    (forget_the_holdoff, {"guest_moves": 0.0}),
    (count_the_holdoff_from_the_handing_over, {"guest_moves": 40.0, "actions": 60, "driver": DriverFaults(answer_lost=0.5)}),
    (accept_any_journal, {"journal_losses": 8.0, "broker": Faults(publish_fails=0.9), "cuts": 6.0, "deadlines": (20.0, 40.0)}),
    (run_two_of_a_server_at_once, {"driver": DriverFaults(slow=0.5), "guest_moves": 0.0}),
    (observe_after_the_last_word, {}),
    (forget_the_watchdogs_nmi, {"firings": 40.0, "guest_moves": 0.0}),
    (forget_firings_at_a_restart, {"firings": 40.0, "agent_kills": 8.0}),
    (conclude_without_looking, {"firings": 40.0, "driver": DriverFaults(slow_read=0.5)}),
    (forget_what_the_server_had, {**_CHANGES, "agent_kills": 12.0}),
    (expire_what_was_begun, {**_CHANGES, "agent_kills": 12.0}),
    (keep_a_cursor_before_its_event, {"logs": 4, "firings": 40.0, "crash_at_commit": 0.03}),
    (keep_a_cursor_after_its_event, {"logs": 4, "firings": 40.0, "crash_at_commit": 0.03}),
    (forget_who_is_out_of_reach, {"logs": 4, "losses": 4.0, "guest_moves": 0.0, "duration": 120.0}),
]


FIRST_TRIED: dict[Plant, int] = {
    acknowledge_before_the_commit: 1,
    forget_own_events: 2,
    call_it_expired_after_a_delivery: 1,
    count_the_holdoff_from_the_handing_over: 7,
    accept_any_journal: 2,
    forget_the_watchdogs_nmi: 8,
    forget_firings_at_a_restart: 1,
    conclude_without_looking: 19,
    forget_what_the_server_had: 2,
    keep_a_cursor_before_its_event: 3,
    keep_a_cursor_after_its_event: 3,
    forget_who_is_out_of_reach: 7,
}
"""Seeds that were the first to find a bug; where the world has changed since, the others are tried."""


CHEAP: frozenset[Plant] = frozenset((record_twice,))
"""Of these the script is shrunk in each run, of the others with ``--all``."""


def find(plant: Plant, faults: dict[str, Any], template: Path, folder: Path) -> tuple[World, list[str]]:
    """The first run that the planted bug breaks a promise in."""
    began = time.process_time()
    for seed in dict.fromkeys((FIRST_TRIED.get(plant, 0), *range(MOST_SEEDS))):
        violations, world = run_script(write_script(make_rough_plan(seed, **faults)), template, folder / str(seed))
        if violations:
            seconds = time.process_time() - began
            print(f"{plant.__name__} found by seed {seed} in {seconds:.1f} s: {violations[0][:300]}")
            assert seconds < MOST_SECONDS
            return world, violations
    pytest.fail(f"{plant.__name__} was not found in {MOST_SEEDS} seeds")


@pytest.mark.parametrize(("plant", "faults"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_is_found(
    plant: Plant, faults: dict[str, Any], template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, _ = run_script(write_script(make_rough_plan(0, **faults)), template, folder / "sound")
    assert not sound, "without the bug nothing is wrong: " + "\n".join(sound)
    plant(monkeypatch)
    world, violations = find(plant, faults, template, folder)
    if plant in CHEAP or os.environ.get("CRASHCART_TEST_ALL"):
        shrunk = shrink_run(world, violations, template, folder / "shrinking", seconds=SHRINKING_SECONDS)
        print(f"shrunk from {len(world.script.steps)} steps in {shrunk.tries} tries: {shrunk.violations[0][:300]}\n{shrunk.script.tell()}")
        assert len(shrunk.script.steps) < len(world.script.steps)
        assert run_script(shrunk.script, template, folder / "again")[0] == shrunk.violations
