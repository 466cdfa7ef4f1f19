"""What a scenario needs of a world, simulated or real."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

EVENTS_OF_ACTION = "SELECT event_type FROM events WHERE action_id = ? AND event_type LIKE 'action.%' ORDER BY position"
"""For worlds that read the store."""


@dataclass(frozen=True)
class ActionView:
    """An action as the API shows it."""

    state: str
    ending: str | None
    code: str | None
    decided_by: str | None
    revised: bool
    observation: str | None


class ScenarioWorld(Protocol):
    """One host with an agent, one engine, one API, one broker. Times in seconds of the world's own clock."""

    call_bound: float
    """The driver's own bound, the greater part of the grace behind a deadline."""

    def take_server(self, *, panics: bool = False, running: bool = True) -> str:
        """A server that no other scenario uses; it survives NMIs unless it ``panics``."""
        ...

    def post(self, server: str, *, deadline: float, force: bool = False) -> str | None:
        """Ask for a crash dump; the action's id, or None when it was refused (409)."""
        ...

    def cancel(self, action: str) -> bool:
        """Call an action off; False when that was refused (409)."""
        ...

    def get_action(self, action: str) -> ActionView: ...

    def list_events(self, action: str) -> list[str]:
        """Types of the ``action.*`` events recorded of it, in the order of the record."""
        ...

    def count_signals(self, server: str) -> int:
        """NMIs that the server really got."""
        ...

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """:raises AssertionError: it did not come true in time."""
        ...

    def pass_time(self, seconds: float) -> None: ...

    def hold_answers(self, on: bool) -> None:
        """While on, the driver sends its signal and does not come back."""
        ...

    def kill_agent(self) -> None: ...

    def start_agent(self) -> None: ...

    def lose_journal(self) -> None:
        """Of an agent that does not run."""
        ...

    def kill_engine(self) -> None: ...

    def start_engine(self) -> None: ...

    def stop_broker(self) -> None: ...

    def start_broker(self) -> None: ...


def list_life(world: ScenarioWorld, action: str) -> list[str]:
    """Its events up to the ending: what follows a signal may be seen before or after."""
    events = world.list_events(action)
    return [event for event in events if event != "action.observed"]


def wait_for_ending(world: ScenarioWorld, action: str, timeout: float = 30.0) -> ActionView:
    """The action once it has ended."""
    world.wait_until(lambda: world.get_action(action).state == "ended", timeout, f"the ending of {action}")
    return world.get_action(action)


def wait_for_observation(world: ScenarioWorld, action: str, observation: str, timeout: float = 30.0) -> None:
    world.wait_until(lambda: world.get_action(action).observation == observation, timeout, f"{observation} of {action}")
