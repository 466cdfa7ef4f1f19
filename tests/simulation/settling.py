"""When a calm world is over: as soon as nothing is open anywhere, and at the latest by when everything must have ended."""

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World

SETTLING = 150.0
"""Seconds after the last fault by which everything has ended, been told and been recorded."""
LOOKS = 10.0
"""Seconds between two looks whether it has."""
NUDGED = 30.0
"""Seconds after the last fault: no process is frozen any more, and no message is under way that was sent before."""
_LEAST = NUDGED + 10.0

_OPEN_IN_STORE = """
    SELECT EXISTS (SELECT 1 FROM actions WHERE state != 'ended') OR EXISTS (SELECT 1 FROM gaps)
    OR EXISTS (SELECT 1 FROM agents WHERE state != 'up')
    OR EXISTS (SELECT 1 FROM outbox WHERE sent_at IS NULL OR message_id NOT IN (SELECT message_id FROM events))
"""


def is_at_rest(world: "World") -> bool:
    """Whether nobody has anything left to do or to tell. What promises are for is another question: this only looks who waits."""
    if world.kernel.time < world.plan.duration + _LEAST or world.broker.events.ready or world.broker.events.unacked:
        return False
    store = sqlite3.connect(world.gateway.path)
    try:
        is_open = store.execute(_OPEN_IN_STORE).fetchone()[0]
    finally:
        store.close()
    return not is_open and all(agent.is_at_rest() for agent in world.agents)
