"""Which firings of a watchdog lie beside one: a dump between two of them is one's or the other's."""

from pathlib import Path

from compute_agent.journal_firings import Firing
from tests.unit.agent.action_parts import Agent


def test_the_neighbours_of_a_firing_are_those_of_its_own_server(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "journal.sqlite")
    server, other = agent.make_server(), agent.make_server()

    def fire(where: str) -> Firing:
        agent.clock.advance(1)
        with agent.change() as transaction:
            return transaction.add_firing(where, agent.clock.now(), model="i6300esb", expiry_action="dump", driver_word="dump")

    _, first, _, middle, _, last, _ = (fire(where) for where in (other, server, other, server, other, server, other))
    with agent.change() as transaction:
        neighbours = [transaction.find_neighbours(firing) for firing in (first, middle, last)]
    assert neighbours == [(None, middle), (first, last), (middle, None)]
