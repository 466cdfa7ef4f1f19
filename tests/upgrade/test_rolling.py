"""A fleet is upgraded part by part and taken back, under load: nothing is lost, and nothing fails for want of a common language."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from devstack.databases import DatabaseKind
from devstack.ports import find_free_base
from devstack.steps import Steps
from tests.chaos.history import History, What, read_lines
from tests.chaos.hypervisor import Mood, set_mood
from tests.chaos.record import Record
from tests.chaos.run import finish, write_setup
from tests.chaos.system import ChaosSystem
from tests.chaos.traffic import Traffic
from tests.chaos.validator import validate_record
from tests.chaos.watching import Onlookers, SecondConsumer
from tests.upgrade.fleet import DEADLINE, KEEPING, NEW, OLD, Fleet, list_surviving, make_system

_RATE = 8.0
"""Actions a second that are asked for."""
_LEAST = 20
"""Actions of each host that must have succeeded: with fewer nothing was put to the test."""
_NOT_OF_THE_MIX = {"crash_dump_in_progress", "server_not_running", "watchdog_not_changed"}
"""How an action may fail where all parts are of one release, too: its server was signalled just now, or has panicked."""
OTHER = "host-1"


@pytest.mark.timeout(600)  # who is killed by it leaves every process behind
@pytest.mark.usefixtures("broker_parts")
@pytest.mark.parametrize(
    "database",
    [
        DatabaseKind.SQLITE,
        pytest.param(
            DatabaseKind.POSTGRESQL, marks=pytest.mark.skipif("CRASHCART_TEST_ALL" not in os.environ, reason="takes long: with --all")
        ),
    ],
)
def test_a_fleet_is_upgraded_and_taken_back_part_by_part_while_actions_flow(tmp_path: Path, database: DatabaseKind) -> None:
    history = History(tmp_path / "history.jsonl")
    system = make_system(tmp_path / "system", find_free_base(), database, Steps())
    with running(system, history) as fleet:
        with load(system, history, "up"):
            go_up(fleet)
            fleet.replace_agent(OTHER, OLD)  # both sorts of agents under the newer gateway
            fleet.check_flow()
        refuse_what_an_older_agent_does_not_take(system, fleet)
        with load(system, history, "down"):
            go_down(fleet)
        go_on_with_a_journal_that_the_other_release_left(system, fleet)
    check(Record.read(read_lines(history.path)))


def go_up(fleet: Fleet) -> None:
    fleet.check_flow()
    fleet.upgrade_database("--expand")  # the release before goes on over what was migrated
    fleet.check_flow()
    fleet.replace_agent(OTHER, NEW)  # both sorts of agents under the older gateway
    fleet.check_flow()
    fleet.replace_agent(KEEPING, NEW)  # newer agents alone
    fleet.check_flow()
    fleet.replace_engine(NEW)  # the older API beside a newer engine
    fleet.check_flow()
    fleet.replace_api(NEW)
    fleet.upgrade_database("--contract")
    fleet.check_flow()


def go_down(fleet: Fleet) -> None:
    fleet.replace_engine(OLD)  # the newer API beside an older engine
    fleet.check_flow()
    fleet.replace_api(OLD)
    fleet.check_flow()
    assert fleet.list_releases() == {OTHER: OLD.release, KEEPING: NEW.release}


def refuse_what_an_older_agent_does_not_take(system: ChaosSystem, fleet: Fleet) -> None:
    """Before anything of it is written or cast; the action goes its way."""
    server = list_surviving(system.hosts[OTHER])[0]
    fleet.wait_ended(fleet.ask_for_dump(server, force=True))  # and with it all that was asked for before
    with calls_that_hang(system, OTHER):
        begun, waiting = ask_for_two(fleet, server)
        refused = fleet.cancel(waiting)
    assert refused.status == 400, refused.text
    assert f"agent on {OTHER} (release {OLD.release}) does not support this" in refused.message
    ended = fleet.wait_ended(waiting)
    assert (ended["ending"], ended["cancel_requested_at"]) == ("succeeded", None), ended
    assert fleet.wait_ended(begun)["ending"] == "succeeded"


def go_on_with_a_journal_that_the_other_release_left(system: ChaosSystem, fleet: Fleet) -> None:
    """Killed amid a call: what was perhaps sent is not sent again, what had not begun is done, and who is held off stays so."""
    struck, signalled, *_ = list_surviving(system.hosts[KEEPING])
    first, _ = (fleet.wait_ended(fleet.ask_for_dump(server, force=True)) for server in (signalled, struck))
    assert first["ending"] == "succeeded", first
    with calls_that_hang(system, KEEPING):
        begun, waiting = ask_for_two(fleet, struck)
        system.hosts[KEEPING].agent.kill()
    for side in (OLD, NEW):
        fleet.replace_agent(KEEPING, side)
        assert fleet.wait_ended(begun)["ending"] == "unknown"
        assert fleet.wait_ended(waiting)["ending"] == "succeeded"
        for server, earlier in ((signalled, first["id"]), (struck, waiting)):
            refused = fleet.wait_ended(fleet.ask_for_dump(server))
            assert (refused["code"], earlier in refused["reason"]) == ("crash_dump_in_progress", True), refused


@contextmanager
def calls_that_hang(system: ChaosSystem, host: str) -> Iterator[None]:
    hypervisor = system.hosts[host].hypervisor
    assert hypervisor is not None
    set_mood(hypervisor, Mood.HANGING)
    try:
        yield
    finally:
        set_mood(hypervisor, Mood.WELL)


def ask_for_two(fleet: Fleet, server: str) -> tuple[str, str]:
    """A crash dump, which has begun, and another one, which waits for its end."""
    begun = fleet.ask_for_dump(server, force=True)
    fleet.wait_state(begun, "started")
    waiting = fleet.ask_for_dump(server, force=True)
    fleet.wait_state(waiting, "received")
    return begun, waiting


@contextmanager
def load(system: ChaosSystem, history: History, seed: str) -> Iterator[None]:
    """Clients who ask for actions all the time."""
    traffic = Traffic(system, history, seed=seed, rate=_RATE, clients=4, deadlines=(DEADLINE,))
    traffic.start()
    try:
        yield
    finally:
        traffic.stop()


@contextmanager
def running(system: ChaosSystem, history: History) -> Iterator[Fleet]:
    """Everything of the release before, with those who look on; at the end all is let come to its end, and collected."""
    consumer = SecondConsumer(system.stack.broker.transport_url, history)
    with ExitStack() as ending:  # whatever fails of it, the rest is stopped
        ending.callback(history.close)
        ending.callback(system.down)
        ending.callback(consumer.stop)
        system.up(before_services=consumer.start)
        write_setup(system, history)
        onlookers = Onlookers(system, history, seed="upgrade")
        ending.callback(onlookers.stop)
        onlookers.start()
        yield Fleet(system, history)
        finish(system, consumer, history, onlookers, system.steps)


def check(record: Record) -> None:
    """Every promise was kept, by the accounts of those who look on, of the hypervisors, journals and store; see the validator."""
    assert not (found := validate_record(record)), "\n".join(violation.text for violation in found)
    refused = Counter(answer["status"] for answer in record.lines[What.ANSWER] if answer["status"] not in (200, 202, 409, 503, None))
    assert not refused
    codes = Counter(row["code"] for row in record.rows.values() if row["ending"] != "succeeded")
    assert codes.pop("agent_restarted") == 1  # the one that was begun when its agent was killed
    assert codes.keys() <= _NOT_OF_THE_MIX, codes
    succeeded = Counter(row["host"] for row in record.rows.values() if row["ending"] == "succeeded")
    assert min(succeeded.values()) >= _LEAST, succeeded
