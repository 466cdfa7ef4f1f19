"""What the journal keeps of servers that leave, and for how long."""

from datetime import timedelta
from pathlib import Path

import pytest

from compute_agent.contract.models import Departure
from tests.unit.agent.action_parts import Agent

KEEP = timedelta(minutes=10)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "state" / "journal.sqlite")


def leave(agent: Agent, count: int) -> list[str]:
    """So many servers left, one second after the other."""
    servers = [agent.make_server() for _ in range(count)]
    for server in servers:
        agent.clock.advance(1)
        with agent.change() as transaction:
            transaction.remove_known_server(server, Departure.MIGRATED, agent.clock.now())
    return servers


def forget(agent: Agent, *, limit: int = 100, except_for: tuple[str, ...] = ()) -> int:
    with agent.change() as transaction:
        return transaction.forget_departed(agent.clock.now(), KEEP, limit, except_for=except_for)


def list_left(agent: Agent, servers: list[str]) -> list[str]:
    with agent.change() as transaction:
        return [server for server in servers if transaction.find_known_server(server) is not None]


def test_a_server_that_left_is_forgotten_when_its_time_is_over_and_not_before(agent: Agent) -> None:
    servers = leave(agent, 2)
    agent.clock.advance(KEEP.total_seconds())
    assert (forget(agent), list_left(agent, servers)) == (1, servers[1:])
    agent.clock.advance(1)
    assert (forget(agent), list_left(agent, servers)) == (1, [])


def test_of_more_than_are_kept_those_that_left_last_stay(agent: Agent) -> None:
    servers = leave(agent, 3)
    assert (forget(agent, limit=2), list_left(agent, servers)) == (1, servers[1:])


def test_what_a_migration_left_behind_is_not_forgotten(agent: Agent) -> None:
    servers = leave(agent, 2)
    assert (forget(agent, limit=0, except_for=(servers[0],)), list_left(agent, servers)) == (1, servers[:1])


def test_why_servers_left_is_said_of_those_that_left_last(agent: Agent) -> None:
    servers = leave(agent, 3)
    with agent.change() as transaction:
        assert transaction.list_departures(agent.clock.now(), 9) == {servers[2]: Departure.MIGRATED}
        assert set(transaction.list_departures(agent.clock.now() - KEEP, 2)) == set(servers[1:])


def test_a_server_takes_its_cursor_with_it_and_no_other(agent: Agent) -> None:
    gone, stays = agent.make_server(), agent.make_server()
    with agent.change() as transaction:
        for server in (gone, stays):
            transaction.keep_cursor(server, "7")
        transaction.remove_known_server(gone, Departure.MIGRATED, agent.clock.now())
        assert transaction.list_cursors() == {stays: "7"}


def test_the_next_life_of_a_server_has_the_next_generation_and_no_departure(agent: Agent) -> None:
    [server] = leave(agent, 1)
    with agent.change() as transaction:
        assert transaction.next_generation(server) == 2
    agent.know(server, generation=2)
    with agent.change() as transaction:
        known = transaction.find_known_server(server)
        assert known is not None
        assert (known.server.generation, known.removed_at, known.departure) == (2, None, None)
        assert transaction.list_known_ids() == {server}
