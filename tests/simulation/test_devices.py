"""What the endings of changes let be true of a guest's watchdog, also where nobody can end one."""

from collections.abc import Callable
from pathlib import Path

from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from tests.simulation.agent import Agent
from tests.simulation.devices import MODEL
from tests.simulation.hypervisor import CALL_BOUND
from tests.simulation.invariants import check_run
from tests.simulation.plan import Plan
from tests.simulation.script import Script
from tests.simulation.world import World


def wait_until(world: World, condition: Callable[[], bool]) -> None:
    end = world.kernel.time + 60.0
    while not condition():
        assert world.kernel.time < end, world.tell_history()
        world.advance(0.1)


def restart(agent: Agent, world: World) -> None:
    world.kernel.kill(agent.process)
    agent.end_life()
    agent.start()


def get_other(first: WatchdogDevice | None) -> ExpiryAction:
    assert first is not None
    return next(action for action in ExpiryAction if action != first.expiry_action)


def get_end(world: World) -> tuple[str | None, str | None]:
    """Of the first action that was asked for."""
    action = world.find_action(world.accepted[0])
    assert action is not None
    return action.code, action.decided_by


def judge(world: World) -> list[str]:
    for agent in world.agents:
        agent.read_committed()
    return check_run(world)


def test_a_begun_change_behind_a_call_that_never_returns_is_unknown_and_not_a_broken_promise(template: Path, folder: Path) -> None:
    """Until that call is back, or its agent is started anew, nothing else is done of its server: so says doc/reliability.rst."""
    world = World(Script(Plan(seed="held", hosts=1, guests_per_host=1)), template, folder)
    try:
        agent = world.agents[0]
        hypervisor, guest = agent.hypervisor, world.list_guests()[0]
        wanted = WatchdogDevice(model=MODEL.model, expiry_action=get_other(guest.first))
        world.begin()
        world.advance(5.0)
        hypervisor.faults.slow = hypervisor.faults.never = 1.0
        world.post(guest.id, deadline=20.0, kind=ActionKind.SET_WATCHDOG, arguments={"watchdog": wanted.to_wire(), "replace": True})
        world.advance(0.1)
        world.post(guest.id, deadline=40.0)
        wait_until(world, lambda: guest.configured == wanted)
        restart(agent, world)
        wait_until(world, lambda: bool(hypervisor.calls))
        world.calm()
        world.advance(60.0 + 4 * CALL_BOUND)
        assert (get_end(world), guest.configured) == ((Code.NOT_REPORTED, "gateway"), wanted)
        assert judge(world) == []
        hypervisor.calls[0].ended_at = world.kernel.time
        assert any(f"guest {guest.name} has {wanted} configured" in violation for violation in judge(world))
        restart(agent, world)
        wait_until(world, lambda: get_end(world) == (Code.WATCHDOG_NOT_CHANGED, "agent"))
        world.advance(10.0)
        assert (guest.watchdog, guest.configured) == (guest.first, guest.first)
        assert judge(world) == []
    finally:
        world.close()
