"""The simulated world in the words of the scenarios."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from compute_agent.contract.models import PowerState
from tests.scenarios.world import EVENTS_OF_ACTION, ActionView
from tests.simulation.cancelling import ask_to_cancel
from tests.simulation.hypervisor import CALL_BOUND
from tests.simulation.plan import Plan
from tests.simulation.script import Script
from tests.simulation.world import World

_STEP = 0.1


class SimulatedScenarioWorld:
    """One calm simulated host. Implements ScenarioWorld."""

    call_bound = CALL_BOUND

    def __init__(self, name: str, template: Path, folder: Path) -> None:
        self.world = World(Script(Plan(seed=name, hosts=1, guests_per_host=3)), template, folder)
        self._agent = self.world.agents[0]
        guests = list(self._agent.hypervisor.guests.values())
        for guest, takes in zip(guests, ("deaf", "panics", "deaf"), strict=True):
            guest.takes = takes
            guest.state = PowerState.RUNNING
        guests[2].state = PowerState.SHUTDOWN
        self._survivor, self._panicker, self._shut_off = (guest.id for guest in guests)
        self.world.begin()
        self.wait_until(lambda: len(self._query("SELECT id FROM servers")) == 3, 10, "the servers")

    def take_server(self, *, panics: bool = False, running: bool = True) -> str:
        if not running:
            return self._shut_off
        return self._panicker if panics else self._survivor

    def post(self, server: str, *, deadline: float, force: bool = False) -> str | None:
        before = len(self.world.accepted)
        self.world.post(server, deadline=deadline, force=force)
        self.world.advance(0.001)
        return self.world.accepted[-1] if len(self.world.accepted) > before else None

    def cancel(self, action: str) -> bool:
        answered = self.world.cancellations
        before = len(answered.noted) + len(answered.ended)
        ask_to_cancel(self.world, action)
        self.world.advance(0.001)
        return len(answered.noted) + len(answered.ended) > before

    def get_action(self, action: str) -> ActionView:
        row = self.world.find_action(action)
        assert row is not None
        return ActionView(row.state, row.ending, row.code, row.decided_by, row.revised_at is not None, row.observation)

    def list_events(self, action: str) -> list[str]:
        return [row[0] for row in self._query(EVENTS_OF_ACTION, action)]

    def count_signals(self, server: str) -> int:
        return sum(call.server == server and call.sent_at is not None for call in self._agent.hypervisor.calls)

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        end = self.world.kernel.time + timeout
        while not condition():
            assert self.world.kernel.time < end, f"waited {timeout:g} s for {what}\n{self.world.tell_history()}"
            self.world.advance(_STEP)

    def pass_time(self, seconds: float) -> None:
        self.world.advance(seconds)

    def hold_answers(self, on: bool) -> None:
        self._agent.hypervisor.hold_answers(on)

    def kill_agent(self) -> None:
        self.world.kernel.kill(self._agent.process)
        self._agent.end_life()
        self.world.advance(0.0)

    def start_agent(self) -> None:
        self._agent.start()

    def lose_journal(self) -> None:
        self._agent.lose_journal()

    def kill_engine(self) -> None:
        engine = self.world.gateway.engines[0]
        self.world.kernel.kill(engine.process)
        engine.end_life()
        self.world.advance(0.0)

    def start_engine(self) -> None:
        self.world.gateway.engines[0].start()

    def stop_broker(self) -> None:
        self.world.broker.stop()

    def start_broker(self) -> None:
        self.world.broker.start()

    def close(self) -> None:
        self.world.close()

    def _query(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        connection = sqlite3.connect(self.world.gateway.path)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()
