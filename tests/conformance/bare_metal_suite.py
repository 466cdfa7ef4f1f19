"""What every driver of bare metal must do beside the other suites: read its platform's logs once, and feed watchdogs from outside.

Subclass over a :class:`LogLaboratory` (``LogConformance``) and a ``TimerLaboratory`` (``TimerConformance``).
"""

import time
from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction
from compute_agent.drivers.base import WatchdogTimer
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound, ServerUnsupported
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.conformance.suite import PowerOnlyLaboratory
from tests.conformance.watchdog_suite import TimerLaboratory, expect, find_model, get_watchdogs, make_hot

_FEEDING_TRIES = 5


class LogLaboratory(PowerOnlyLaboratory):
    """A laboratory whose servers' platforms keep logs, and whose driver ends and begins as an agent's does."""

    @abstractmethod
    def write_panic(self, server: str) -> None:
        """Its platform notes that its operating system has panicked; it is on still. Works whether a driver runs or not."""

    @abstractmethod
    def stop_driver(self) -> None:
        """The agent is gone; the platforms go on."""

    @abstractmethod
    def start_driver(self, cursors: Mapping[str, str]) -> None:
        """Another driver over the same backends, subscribed with ``cursors`` and opened, with an ``events`` of its own."""


class LogConformance:
    """Subclass it beside ``DriverConformance``."""

    def test_what_a_log_tells_comes_with_a_cursor(self, laboratory: LogLaboratory) -> None:
        server = laboratory.make_surviving()
        self._wait_for_cursor(laboratory, server)
        told = self._panic(laboratory, server)
        assert told.cursor
        assert len(told.cursor) <= 512
        assert told.power_state is PowerState.RUNNING
        assert told.reason

    def test_what_was_logged_while_no_agent_ran_is_told_once(self, laboratory: LogLaboratory) -> None:
        """With the time at which it happened, and before the driver says that it has looked at everything."""
        server = laboratory.make_surviving()
        self._wait_for_cursor(laboratory, server)
        earlier = self._panic(laboratory, server)
        assert earlier.cursor is not None
        laboratory.stop_driver()
        laboratory.write_panic(server)
        self._restart(laboratory, {server: earlier.cursor})
        (told,) = laboratory.events.list(DriverEventKind.PANICKED, server)
        assert told.occurred_at >= earlier.occurred_at
        assert told.cursor not in (None, earlier.cursor)
        laboratory.stop_driver()
        self._restart(laboratory, {server: told.cursor or ""})
        assert laboratory.events.list(DriverEventKind.PANICKED, server) == []

    def test_an_agent_that_is_killed_before_it_kept_the_cursor_is_told_again(self, laboratory: LogLaboratory) -> None:
        server = laboratory.make_surviving()
        before = self._wait_for_cursor(laboratory, server)
        told = self._panic(laboratory, server)
        laboratory.stop_driver()
        self._restart(laboratory, {server: before})
        (again,) = laboratory.events.list(DriverEventKind.PANICKED, server)
        assert (again.reason, again.cursor) == (told.reason, told.cursor)

    def test_what_was_logged_before_anybody_asked_is_history(self, laboratory: LogLaboratory) -> None:
        server = laboratory.make_surviving()
        self._wait_for_cursor(laboratory, server)
        laboratory.stop_driver()
        laboratory.write_panic(server)
        self._restart(laboratory, {})
        assert laboratory.events.list(DriverEventKind.PANICKED, server) == []
        assert self._wait_for_cursor(laboratory, server)

    def test_what_was_logged_while_a_server_was_away_is_told_before_it_is_back(self, laboratory: LogLaboratory) -> None:
        """So that its observation ends with what happened, and not with a comparison of states."""
        server = laboratory.make_surviving()
        self._wait_for_cursor(laboratory, server)
        since = laboratory.events.position
        with laboratory.without_backend(server):
            laboratory.write_panic(server)
            assert laboratory.events.list(DriverEventKind.PANICKED, server, since=since) == []
        told = laboratory.events.wait_for(DriverEventKind.PANICKED, server, since=since, timeout=0)
        back = laboratory.events.wait_for(DriverEventKind.BACKEND_BACK, server, since=since, timeout=0)
        assert laboratory.events.find_position(told) < laboratory.events.find_position(back)

    def test_a_server_that_nobody_could_read_yet_is_there_and_its_state_is_pending(self, laboratory: LogLaboratory) -> None:
        server = laboratory.make_surviving()
        laboratory.stop_driver()
        laboratory.lose_backend(server)
        try:
            self._restart(laboratory, {})
            laboratory.events.wait_for(DriverEventKind.BACKEND_LOST, server, since=0, timeout=laboratory.patience)
            (listed,) = [listed for listed in laboratory.driver.servers.list_servers() if listed.id == server]
            assert listed.power_state is PowerState.PENDING
            assert listed.unread
        finally:
            laboratory.restore_backend(server)
        laboratory.events.wait_for(DriverEventKind.BACKEND_BACK, server, since=0, timeout=laboratory.patience)
        assert laboratory.driver.servers.get_server(server).power_state is PowerState.RUNNING

    def _panic(self, laboratory: LogLaboratory, server: str) -> DriverEvent:
        since = laboratory.events.position
        laboratory.write_panic(server)
        return laboratory.events.wait_for(DriverEventKind.PANICKED, server, since=since, timeout=laboratory.patience)

    def _restart(self, laboratory: LogLaboratory, cursors: Mapping[str, str]) -> None:
        laboratory.start_driver(cursors)
        laboratory.events.wait_for(DriverEventKind.BACKEND_BACK, None, since=0, timeout=laboratory.patience)

    def _wait_for_cursor(self, laboratory: LogLaboratory, server: str) -> str:
        return laboratory.events.wait_for_cursor(server, timeout=laboratory.patience)


class TimerConformance:
    """Subclass it beside ``WatchdogConformance``."""

    def test_setting_a_watchdog_does_not_let_it_count(self, laboratory: TimerLaboratory) -> None:
        """Nobody feeds it yet: it would reset the server for nothing."""
        server = laboratory.make_watched(None)
        since = laboratory.events.position
        get_watchdogs(laboratory).set_watchdog(server, make_hot(laboratory, ExpiryAction.NONE))
        laboratory.pass_time(1.5 * laboratory.countdown)
        assert laboratory.events.list(DriverEventKind.WATCHDOG_FIRED, server, since=since) == []

    def test_a_watchdog_that_is_fed_does_not_fire_and_one_that_is_not_fires_once(self, laboratory: TimerLaboratory) -> None:
        """The first feeding lets it count."""
        server, since = self._feed_for_a_while(laboratory)
        laboratory.pass_time(laboratory.countdown)
        assert expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since).reason == ExpiryAction.NONE
        laboratory.pass_time(1.5 * laboratory.countdown)
        assert len(laboratory.events.list(DriverEventKind.WATCHDOG_FIRED, server, since=since)) == 1

    def test_it_fires_with_the_expiry_action_that_was_set_last(self, laboratory: TimerLaboratory) -> None:
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.NONE))
        get_watchdogs(laboratory).set_watchdog(server, make_hot(laboratory, ExpiryAction.RESET))
        since = laboratory.events.position
        self._get_timer(laboratory).reset_timer(server)
        laboratory.pass_time(laboratory.countdown)
        assert expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since).reason == ExpiryAction.RESET
        expect(laboratory, DriverEventKind.REBOOTED, server, since)

    def test_a_watchdog_that_cycles_the_power_leaves_the_server_on(self, laboratory: TimerLaboratory) -> None:
        if ExpiryAction.POWER_CYCLE not in find_model(get_watchdogs(laboratory), hot_plug=True).expiry_actions:
            pytest.skip("the platform's watchdog does not cycle the power")
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.POWER_CYCLE))
        since = laboratory.events.position
        self._get_timer(laboratory).reset_timer(server)
        laboratory.pass_time(laboratory.countdown)
        assert expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since).reason == ExpiryAction.POWER_CYCLE
        laboratory.events.wait_for_any({DriverEventKind.REBOOTED, DriverEventKind.STARTED}, server, since, timeout=laboratory.patience)
        assert laboratory.driver.servers.get_server(server).power_state is PowerState.RUNNING

    def test_a_server_without_a_watchdog_cannot_be_fed(self, laboratory: TimerLaboratory) -> None:
        with pytest.raises(ServerUnsupported) as refusal:
            self._get_timer(laboratory).reset_timer(laboratory.make_watched(None))
        assert refusal.value.reason
        with pytest.raises(ServerNotFound):
            self._get_timer(laboratory).reset_timer(laboratory.unknown_server)

    def test_without_its_backend_no_server_is_fed(self, laboratory: TimerLaboratory) -> None:
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.NONE))
        with laboratory.without_backend(server), pytest.raises(BackendUnavailable):
            self._get_timer(laboratory).reset_timer(server)

    def _feed_for_a_while(self, laboratory: TimerLaboratory) -> tuple[str, int]:
        """A server that was fed for twice its countdown without a firing, and the position of the events before.

        When the machine that runs the test stood still for so long that a watchdog fires rightly, it is done anew with another server.
        """
        for _ in range(_FEEDING_TRIES):
            server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.NONE))
            since = laboratory.events.position
            spans = [self._feed(laboratory, server) for _ in range(8)]
            fired = laboratory.events.list(DriverEventKind.WATCHDOG_FIRED, server, since=since)
            spans.append((time.monotonic(), time.monotonic()))
            if all(ended - began < laboratory.countdown for (began, _), (_, ended) in pairwise(spans)):
                assert fired == []
                return server, since
        pytest.fail(f"in none of {_FEEDING_TRIES} tries the server was fed in time")

    def _feed(self, laboratory: TimerLaboratory, server: str) -> tuple[float, float]:
        """Begin and end of the call, which a quarter of the countdown follows."""
        began = time.monotonic()
        self._get_timer(laboratory).reset_timer(server)
        ended = time.monotonic()
        laboratory.pass_time(0.25 * laboratory.countdown)
        return began, ended

    def _get_timer(self, laboratory: TimerLaboratory) -> WatchdogTimer:
        assert laboratory.driver.watchdog_timer is not None
        return laboratory.driver.watchdog_timer
