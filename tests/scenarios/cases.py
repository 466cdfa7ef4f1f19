"""The scenarios. Each is told in the words of ``ScenarioWorld`` alone and must end alike in every world."""

from collections.abc import Callable

from tests.scenarios.world import ScenarioWorld, list_life, wait_for_ending, wait_for_observation

LIFE = ["action.received", "action.started", "action.ended"]


def a_crash_dump_is_signalled_once_and_its_panic_observed(world: ScenarioWorld) -> None:
    server = world.take_server(panics=True)
    action = world.post(server, deadline=20)
    assert action is not None
    seen = wait_for_ending(world, action)
    assert (seen.ending, seen.code, seen.decided_by) == ("succeeded", "signal_delivered", "agent")
    wait_for_observation(world, action, "guest_panicked")
    assert world.count_signals(server) == 1
    assert list_life(world, action) == LIFE


def a_second_crash_dump_is_refused_while_the_first_may_run(world: ScenarioWorld) -> None:
    server = world.take_server()
    action = world.post(server, deadline=20)
    assert action is not None
    assert world.post(server, deadline=20) is None
    wait_for_ending(world, action)
    assert world.post(server, deadline=20) is None
    assert world.count_signals(server) == 1


def what_waits_behind_another_action_is_called_off_and_never_begins(world: ScenarioWorld) -> None:
    server = world.take_server()
    world.hold_answers(True)
    first = world.post(server, deadline=60)
    assert first is not None
    world.wait_until(lambda: world.count_signals(server) == 1, 20, "the signal")
    second = world.post(server, deadline=60, force=True)
    assert second is not None
    world.wait_until(lambda: world.get_action(second).state == "received", 20, "the second one to wait in the journal")
    assert world.cancel(second)
    seen = wait_for_ending(world, second)
    assert (seen.ending, seen.code, seen.decided_by) == ("failed", "cancelled", "agent")
    assert world.cancel(second), "once more is no other answer"
    world.wait_until(lambda: world.get_action(first).state == "started", 20, "the news that the first one has begun")
    assert not world.cancel(first)
    world.hold_answers(False)
    assert wait_for_ending(world, first).ending == "succeeded"
    assert list_life(world, second) == ["action.received", "action.ended"]
    assert world.count_signals(server) == 1


def a_shut_off_server_is_refused(world: ScenarioWorld) -> None:
    server = world.take_server(running=False)
    assert world.post(server, deadline=20) is None
    assert world.count_signals(server) == 0


def an_agent_that_comes_back_before_the_deadline_does_its_work(world: ScenarioWorld) -> None:
    server = world.take_server()
    world.kill_agent()
    action = world.post(server, deadline=40)
    assert action is not None
    world.pass_time(2)
    assert world.get_action(action).state == "accepted"
    world.start_agent()
    assert wait_for_ending(world, action).ending == "succeeded"
    assert world.count_signals(server) == 1


def an_agent_that_comes_back_after_the_deadline_sends_nothing(world: ScenarioWorld) -> None:
    """Its queue had the cast, so only the agent may say that nothing was sent; until it does, the ending is unknown."""
    server = world.take_server()
    world.kill_agent()
    action = world.post(server, deadline=4)
    assert action is not None
    seen = wait_for_ending(world, action, timeout=4 + world.call_bound + 20)
    assert (seen.ending, seen.code, seen.decided_by) == ("unknown", "not_reported", "gateway")
    world.start_agent()
    world.wait_until(lambda: world.get_action(action).revised, 40, "the agent's own word")
    seen = world.get_action(action)
    assert (seen.ending, seen.code, seen.decided_by) == ("expired", "deadline_passed", "agent")
    assert world.count_signals(server) == 0


def an_agent_killed_during_the_call_never_signals_again(world: ScenarioWorld) -> None:
    server = world.take_server()
    world.hold_answers(True)
    action = world.post(server, deadline=30)
    assert action is not None
    world.wait_until(lambda: world.count_signals(server) == 1, 20, "the signal")
    world.kill_agent()
    world.hold_answers(False)
    world.start_agent()
    seen = wait_for_ending(world, action)
    assert (seen.ending, seen.code) == ("unknown", "agent_restarted")
    world.pass_time(6)
    assert world.count_signals(server) == 1
    assert world.post(server, deadline=20) is None, "its dump may still be running"


def a_call_that_does_not_come_back_ends_unknown(world: ScenarioWorld) -> None:
    server = world.take_server()
    world.hold_answers(True)
    action = world.post(server, deadline=8)
    assert action is not None
    seen = wait_for_ending(world, action, timeout=8 + world.call_bound + 20)
    assert (seen.ending, seen.code) in [("unknown", "call_overdue"), ("unknown", "not_reported")]
    world.hold_answers(False)
    world.pass_time(3)
    assert world.get_action(action).ending == "unknown"
    assert world.count_signals(server) == 1


def a_journal_lost_between_two_casts_means_no_second_signal(world: ScenarioWorld) -> None:
    """The first journal had run the action and could not tell; the next one must not run it again."""
    server = world.take_server()
    world.hold_answers(True)
    action = world.post(server, deadline=60)
    assert action is not None
    world.wait_until(lambda: world.count_signals(server) == 1, 20, "the signal")
    world.kill_agent()
    world.lose_journal()
    world.hold_answers(False)
    world.start_agent()
    world.pass_time(12)
    assert world.count_signals(server) == 1
    assert world.get_action(action).ending in (None, "unknown")


def an_engine_killed_around_an_action_loses_nothing(world: ScenarioWorld) -> None:
    server = world.take_server(panics=True)
    world.kill_engine()
    action = world.post(server, deadline=60)
    assert action is not None
    world.start_engine()
    world.wait_until(lambda: world.count_signals(server) == 1, 30, "the signal")
    world.kill_engine()
    world.pass_time(1)
    world.start_engine()
    assert wait_for_ending(world, action).ending == "succeeded"
    wait_for_observation(world, action, "guest_panicked")
    assert list_life(world, action) == LIFE


def a_broker_that_is_away_delays_an_action_and_loses_nothing(world: ScenarioWorld) -> None:
    server = world.take_server(panics=True)
    world.stop_broker()
    action = world.post(server, deadline=60)
    assert action is not None, "a POST needs no broker"
    world.pass_time(3)
    world.start_broker()
    assert wait_for_ending(world, action, timeout=50).ending == "succeeded"
    wait_for_observation(world, action, "guest_panicked")
    assert world.count_signals(server) == 1
    assert list_life(world, action) == LIFE


SCENARIOS: tuple[Callable[[ScenarioWorld], None], ...] = (
    a_crash_dump_is_signalled_once_and_its_panic_observed,
    a_second_crash_dump_is_refused_while_the_first_may_run,
    what_waits_behind_another_action_is_called_off_and_never_begins,
    a_shut_off_server_is_refused,
    an_agent_that_comes_back_before_the_deadline_does_its_work,
    an_agent_that_comes_back_after_the_deadline_sends_nothing,
    an_agent_killed_during_the_call_never_signals_again,
    a_call_that_does_not_come_back_ends_unknown,
    an_engine_killed_around_an_action_loses_nothing,
    a_broker_that_is_away_delays_an_action_and_loses_nothing,
    a_journal_lost_between_two_casts_means_no_second_signal,
)
"""In this order one real world can tell them all: the one that loses the journal comes last."""
