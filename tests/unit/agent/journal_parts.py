"""Single steps of the journal, each in a transaction of its own, for the tests of the journal."""

from compute_agent.actions import make_result
from compute_agent.contract.errors import Code
from compute_agent.contract.models import Observation
from compute_agent.journal import JournalTransaction
from tests.unit.agent.action_parts import Agent

SERVER = "11111111-1111-4111-8111-111111111111"
LOST = {"lost_epoch": "e", "first": 1, "last": 2, "reason": "r"}


def append_lost(transaction: JournalTransaction, agent: Agent) -> int:
    return transaction.append_event("events.lost", server=None, occurred_at=agent.clock.now(), body=LOST)


def add(agent: Agent, number: int = 1) -> str:
    with agent.change() as transaction:
        request = agent.make_request(SERVER, number)
        transaction.add_action(request, agent.clock.now())
    return request.id


def start(agent: Agent, action_id: str) -> bool:
    with agent.change() as transaction:
        return transaction.start_action(action_id, agent.clock.now())


def end(agent: Agent, action_id: str, code: Code = Code.SIGNAL_DELIVERED) -> bool:
    now = agent.clock.now()
    with agent.change() as transaction:
        ended = transaction.end_action(action_id, make_result(code), now, now if code is Code.SIGNAL_DELIVERED else None)
    return ended is not None


def observe(agent: Agent, action_id: str, observation: Observation, final: bool = True) -> bool:
    with agent.change() as transaction:
        return transaction.observe(action_id, observation, agent.clock.now(), final, "text")
