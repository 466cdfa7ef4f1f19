"""Any order of steps, restarts and crashes leaves a journal whose actions and events tell one story."""

import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from compute_agent.actions import make_result
from compute_agent.contract.errors import Code, Ending
from compute_agent.contract.models import Observation
from compute_agent.journal import ActionState
from tests.unit.agent.action_parts import Agent, Crash, make_id

SERVERS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
NUMBERS = st.integers(min_value=1, max_value=3)
ENDING_CODES = st.sampled_from(
    [Code.SIGNAL_DELIVERED, Code.SERVER_NOT_RUNNING, Code.DEADLINE_PASSED, Code.ANSWER_LOST, Code.AGENT_RESTARTED]
)
ORDER = {ActionState.RECEIVED: 0, ActionState.STARTED: 1, ActionState.ENDED: 2}


class JournalStates(RuleBasedStateMachine):
    """Steps may come in any order, as from workers, sweeps and duplicates that race; what they return is checked against the model."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.states: dict[int, ActionState] = {}
        self.codes: dict[int, Code] = {}
        self.final: set[int] = set()

    @initialize()
    def open(self) -> None:
        self.agent = Agent(Path(self._directory.name) / "journal.sqlite")

    def teardown(self) -> None:
        self.agent.journal.close()
        self._directory.cleanup()

    @rule(number=NUMBERS)
    def add(self, number: int) -> None:
        if number in self.states:
            return
        with self.agent.change() as transaction:
            transaction.add_action(self.agent.make_request(SERVERS[number % 2], number), self.agent.clock.now())
        self.states[number] = ActionState.RECEIVED

    @precondition(lambda self: self.states)
    @rule(number=NUMBERS)
    def start(self, number: int) -> None:
        with self.agent.change() as transaction:
            started = transaction.start_action(make_id(number), self.agent.clock.now())
        assert started == (self.states.get(number) is ActionState.RECEIVED)
        if started:
            self.states[number] = ActionState.STARTED

    @precondition(lambda self: self.states)
    @rule(number=NUMBERS, code=ENDING_CODES)
    def end(self, number: int, code: Code) -> None:
        with self.agent.change() as transaction:
            ended = transaction.end_action(make_id(number), make_result(code), self.agent.clock.now())
            assert ended in (None, transaction.find_action(make_id(number)))
        assert (ended is not None) == (self.states.get(number) in (ActionState.RECEIVED, ActionState.STARTED))
        if ended is not None:
            self._note_end(number, code)

    @rule(number=NUMBERS, code=ENDING_CODES, after=st.booleans())
    def crash_at_the_end(self, number: int, code: Code, after: bool) -> None:
        journal = self.agent.journal
        journal.crash_at, journal.crash_after_commit = journal.commits, after
        ended = False
        try:
            with self.agent.change() as transaction:
                ended = transaction.end_action(make_id(number), make_result(code), self.agent.clock.now()) is not None
        except Crash:
            pass
        if ended and after:
            self._note_end(number, code)
        for other, state in self.states.items():
            if state is ActionState.STARTED:
                self._note_end(other, Code.AGENT_RESTARTED)
        waiting = self.agent.restart()
        assert set(waiting) == {make_id(number) for number, state in self.states.items() if state is ActionState.RECEIVED}

    @precondition(lambda self: self.states)
    @rule(number=NUMBERS, observation=st.sampled_from(Observation), final=st.booleans())
    def observe(self, number: int, observation: Observation, final: bool) -> None:
        if number not in self.states:
            return
        with self.agent.change() as transaction:
            recorded = transaction.observe(make_id(number), observation, self.agent.clock.now(), final, "text")
        if recorded:
            assert number not in self.final
            assert self._was_perhaps_sent(number)
        if recorded and final:
            self.final.add(number)

    @rule(server=st.sampled_from(SERVERS))
    def clear(self, server: str) -> None:
        with self.agent.change() as transaction:
            transaction.clear_signal(server, self.agent.clock.now())

    @rule(seconds=st.integers(min_value=1, max_value=100))
    def pass_time(self, seconds: int) -> None:
        self.agent.clock.advance(seconds)

    @rule()
    def send_and_prune(self) -> None:
        self.agent.mark_all_sent()
        with self.agent.change() as transaction:
            now = self.agent.clock.now()
            keep = timedelta(days=7)
            transaction.prune(now, outbox_keep=keep, outbox_max_rows=1000, action_keep=keep)

    @invariant()
    def states_are_as_committed(self) -> None:
        with self.agent.change() as transaction:
            actions = {action.request.id: action for action in transaction.list_actions()}
        assert {action_id: action.state for action_id, action in actions.items()} == {
            make_id(number): state for number, state in self.states.items()
        }
        for number, code in self.codes.items():
            result = actions[make_id(number)].result
            assert result is not None
            assert result.code is code

    @invariant()
    def events_tell_the_same_story(self) -> None:
        events = self.agent.list_events()
        assert [row.sequence for row in events] == list(range(1, len(events) + 1))
        assert len({row.message_id for row in events}) == len(events)
        for number, state in self.states.items():
            story = [row for row in events if row.payload["action_id"] == make_id(number)]
            types = [row.event_type for row in story]
            assert types[0] == "action.received"
            assert types.count("action.received") == 1
            assert types.count("action.started") <= 1
            assert types.count("action.ended") == (1 if state is ActionState.ENDED else 0)
            observed = [index for index, event_type in enumerate(types) if event_type == "action.observed"]
            assert all(index > types.index("action.ended") for index in observed)
            finals = [story[index].payload["final"] for index in observed]
            assert not any(finals[:-1])

    @invariant()
    def every_signal_is_of_an_action_that_was_perhaps_sent(self) -> None:
        with self.agent.change() as transaction:
            rows = transaction.execute("SELECT action_id FROM signals").fetchall()
        assert {row["action_id"] for row in rows} == {make_id(number) for number in self.states if self._was_perhaps_sent(number)}

    def _note_end(self, number: int, code: Code) -> None:
        self.states[number] = ActionState.ENDED
        self.codes[number] = code
        if not self._was_perhaps_sent(number):
            self.final.discard(number)

    def _was_perhaps_sent(self, number: int) -> bool:
        if self.states[number] is ActionState.ENDED:
            return make_result(self.codes[number]).ending in (Ending.SUCCEEDED, Ending.UNKNOWN)
        return self.states[number] is ActionState.STARTED


TestJournalStates = JournalStates.TestCase
TestJournalStates.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
