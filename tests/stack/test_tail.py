"""``crashcart-notifications tail`` as a process, with a consumer's account at a real broker."""

import json
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import kombu
import pytest

from compute_agent.contract.notifications import decode
from compute_agent.contract.publisher import Publisher
from devstack.rabbitmq import PrivateRabbitMQ
from tests.stack.broker_events import build_events, create_address, open_quiet_link
from tests.stack.consumer_programs import ConsumerAccount, Program

_RUN = "import sys; from compute_agent.tail.command import main; sys.exit(main())"
_RUN_WITHOUT_READER = f"import os; reader, writer = os.pipe(); os.dup2(writer, 1); os.close(reader); os.close(writer); {_RUN}"
Tail = Callable[..., Program]


class Journal:
    """One host's events as they are published, under numbers that the test gives."""

    def __init__(self, broker: PrivateRabbitMQ) -> None:
        self.name = uuid.uuid4().hex
        self.host = f"host-{self.name[:8]}"
        self._broker = broker

    def publish(self, *sequences: int) -> None:
        publisher = Publisher(create_address(self._broker, "journal"))
        bodies = [build_events(1, first=sequence, host=self.host, epoch=self.name)[0] for sequence in sequences]
        publisher.publish([decode(body) for body in bodies])
        publisher.close()


@pytest.fixture(scope="module")
def account(broker: PrivateRabbitMQ) -> ConsumerAccount:
    return ConsumerAccount(broker)


@pytest.fixture
def journal(broker: PrivateRabbitMQ) -> Journal:
    return Journal(broker)


@pytest.fixture
def tail(account: ConsumerAccount, journal: Journal) -> Iterator[Tail]:
    programs: list[Program] = []

    def start(*options: str, url: str | None = None, following: bool = True) -> Program:
        environment = {"OS_DEFAULT__TRANSPORT_URL": url or account.build_url()}
        programs.append(Program(["-c", _RUN, "tail", "--json", "--host", journal.host, *options], environment))
        if following:
            programs[-1].wait_for_line("following")
        return programs[-1]

    yield start
    for program in programs:
        program.close()


def read(program: Program) -> list[Any]:
    """The sequences, and (first, last) of gaps."""
    told = [json.loads(line) for line in program.lines]
    return [one["payload"]["sequence"] if one["told"] == "event" else (one["first"], one["last"]) for one in told]


def wait_for(program: Program, expected: Sequence[Any]) -> None:
    program.wait_for(lambda program: read(program) == list(expected), f"{expected}")


def list_queues(broker: PrivateRabbitMQ) -> list[str]:
    return broker.ctl("list_queues", "name").split()


def test_a_restart_of_the_broker_is_told_and_nothing_is_missed_and_a_hole_in_the_sequence_is_shown(
    broker: PrivateRabbitMQ, account: ConsumerAccount, journal: Journal, tail: Tail
) -> None:
    temporary = tail("--patience", "0.5")
    kept = tail("--patience", "0.5", "--queue", f"{account.name}.{journal.name}")
    journal.publish(1, 2)
    for program in (temporary, kept):
        wait_for(program, [1, 2])
    broker.restart()
    for program in (temporary, kept):
        program.wait_for(lambda program: sum("following" in line for line in program.errors) == 2, "that it follows again")
        assert any("the broker is away" in line and "trying again" in line for line in program.errors)
    journal.publish(2, 3, 5)
    for program in (temporary, kept):
        wait_for(program, [1, 2, 3, (4, 4), 5])
    journal.publish(4)
    for program in (temporary, kept):
        wait_for(program, [1, 2, 3, (4, 4), 5, 4])
        assert program.stop() == 0
        assert json.loads(program.lines[-1])["late"] is True
    left = [name for name in list_queues(broker) if name.startswith(account.name)]
    assert left == [f"{account.name}.{journal.name}"], "the temporary one is gone"


def test_what_happens_between_two_runs_waits_in_a_kept_queue(account: ConsumerAccount, journal: Journal, tail: Tail) -> None:
    kept = ("--queue", f"{account.name}.{journal.name}")
    first = tail(*kept, "--count", "2")
    journal.publish(1, 2)
    assert first.join() == 0
    assert read(first) == [1, 2]
    journal.publish(3, 4, 5)
    second = tail(*kept, "--count", "2", following=False)
    assert second.join() == 0
    third = tail(*kept, "--count", "1", following=False)
    assert third.join() == 0
    assert read(second) + read(third) == [3, 4, 5]


def test_it_ends_in_order_when_it_is_interrupted_or_nobody_reads_it_any_more(journal: Journal, tail: Tail) -> None:
    interrupted = tail()
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.join() == 0
    assert "Traceback" not in "".join(interrupted.errors)


def test_a_closed_pipe_ends_it_in_order_and_what_was_not_shown_stays(account: ConsumerAccount, journal: Journal, tail: Tail) -> None:
    kept = ("--queue", f"{account.name}.{journal.name}")
    environment = {"OS_DEFAULT__TRANSPORT_URL": account.build_url()}
    closed = Program(["-c", _RUN_WITHOUT_READER, "tail", "--json", "--host", journal.host, *kept], environment)
    closed.wait_for_line("following")
    journal.publish(1)
    assert closed.join() == 0
    assert "Traceback" not in "".join(closed.errors)
    again = tail(*kept, "--count", "1", following=False)
    assert again.join() == 0
    assert read(again) == [1]


def test_what_the_broker_refuses_ends_it_with_a_sentence(
    broker: PrivateRabbitMQ, account: ConsumerAccount, journal: Journal, tail: Tail
) -> None:
    stranger = tail(url=account.build_url(password="wrong"), following=False)
    not_its_own = tail("--queue", "consumer.somebody-else", following=False)
    link = open_quiet_link(broker)
    name = f"{account.name}.{journal.name}"
    kombu.Queue(name, durable=True, expires=60)(link.channel()).declare()
    link.close()
    other_limits = tail("--queue", name, following=False)
    for program in (stranger, not_its_own, other_limits):
        assert program.join() == 1
        assert program.lines == []
        assert program.errors[-1].startswith("crashcart-notifications: the broker refuses"), program.errors


def test_fewer_events_than_asked_for_in_time_is_a_status_of_its_own(tail: Tail) -> None:
    assert tail("--count", "1", "--timeout", "1", following=False).join() == 3
