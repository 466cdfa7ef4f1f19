"""The examples of the documentation, as they stand, follow a real agent's crash dumps over a real broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compute_agent.contract.publisher import Publisher
from devstack.rabbitmq import PrivateRabbitMQ
from tests.stack.broker_events import create_address
from tests.stack.consumer_programs import ConsumerAccount, Program
from tests.stack.test_agent_over_broker import Bench

EXAMPLES = Path(__file__).parents[2] / "doc" / "examples"


@pytest.fixture
def bench(tmp_path: Path, broker: PrivateRabbitMQ) -> Iterator[Bench]:
    bench = Bench(tmp_path, broker)
    yield bench
    bench.close()


@pytest.fixture
def examples(broker: PrivateRabbitMQ) -> Iterator["Examples"]:
    examples = Examples(broker)
    yield examples
    examples.close()


class Examples:
    """All of them at once, each with its own queue; they can be started again."""

    def __init__(self, broker: PrivateRabbitMQ) -> None:
        account = ConsumerAccount(broker)
        self._commands = [
            ["listen_kombu.py", account.build_url("amqp", "/"), f"{account.name}.kombu"],
            ["listen_pika.py", account.build_url("amqp", "%2F"), f"{account.name}.pika"],
            ["listen_crashcart.py", account.build_url(), f"{account.name}.crashcart"],
            ["listen_oslo.py", account.build_url(), account.name],
        ]
        self.running: list[Program] = []

    def start(self) -> None:
        self.running = [Program([EXAMPLES / name, *arguments]) for name, *arguments in self._commands]
        for program in self.running:
            program.wait_for(lambda program: any("away" not in line for line in program.lines), "that it listens")

    def wait_for(self, line: str) -> None:
        for program in self.running:
            program.wait_for_line(line)

    def close(self) -> None:
        for program in self.running:
            program.close()


def test_each_example_prints_each_ending_once_and_misses_none_while_the_broker_or_itself_is_away(bench: Bench, examples: Examples) -> None:
    bench.agent.start()
    heartbeat = bench.wait_for_heartbeat()
    panicking, surviving = bench.find_servers(heartbeat)
    first, second, third, fourth = (bench.build(heartbeat, server) for server in (panicking, surviving, surviving, surviving))
    examples.start()
    bench.cast(first)
    examples.wait_for(f"{first.id} succeeded signal_delivered")
    bench.ear.wait_for_event("action.ended", first.id)
    publisher = Publisher(create_address(bench.broker, "again"))
    publisher.publish([event for event in bench.ear.heard if event.payload.get("action_id") == first.id])
    publisher.close()
    bench.cast(second)
    examples.wait_for(f"{second.id} succeeded signal_delivered")
    for program in examples.running:
        assert len([line for line in program.lines if first.id in line]) == 1, "it came twice"

    bench.broker.restart()
    bench.ear.connect()
    bench.cast(third)
    examples.wait_for(f"{third.id} failed crash_dump_in_progress")

    examples.close()
    bench.cast(fourth)
    bench.ear.wait_for_event("action.ended", fourth.id)
    examples.start()
    examples.wait_for(f"{fourth.id} failed crash_dump_in_progress")
