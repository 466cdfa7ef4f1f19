"""What every driver that manages watchdogs must do; subclass the classes here over a :class:`WatchdogLaboratory`.

The words are the driver's own (:meth:`Watchdogs.list_models`): a *hot* model comes and goes while a server runs, a *cold* one needs a
restart. A platform without one of them skips what is about it.
"""

from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import ExpiryAction, Watchdog, WatchdogDevice, WatchdogModel
from compute_agent.drivers.base import ExpiryDumps, Resume, Watchdogs
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.conformance.suite import Laboratory, PowerOnlyLaboratory


class WatchdogLaboratory(Laboratory):
    """A laboratory whose servers can have watchdogs.

    ``device`` is the one managed watchdog that the server has, configured and (while it runs) live; None: it has none.
    """

    @abstractmethod
    def make_watched(self, device: WatchdogDevice | None, power_state: PowerState = PowerState.RUNNING) -> str:
        """A server that is running or off (``SHUTDOWN``), with room for a hot model, whose guest is ready to let its watchdog fire."""

    @abstractmethod
    def make_full(self) -> str:
        """A running server without a watchdog that has no room for a hot model until it is started anew."""

    @abstractmethod
    def make_clinging(self, device: WatchdogDevice) -> str:
        """A running or crashed server whose guest does not let go of its watchdog, a hot model."""

    @abstractmethod
    def make_transient(self, device: WatchdogDevice | None) -> str:
        """A running server that vanishes when it stops, with room for a hot model."""

    @abstractmethod
    def make_with_unmanaged(self) -> tuple[str, WatchdogDevice]:
        """A server whose only watchdog is one that the driver does not manage, and that."""

    @abstractmethod
    def define_watchdog(self, server: str, device: WatchdogDevice | None) -> None:
        """Change only the configuration of a running server, as another tool would."""

    @abstractmethod
    def fire_watchdog(self, server: str) -> None:
        """Let its guest stop feeding the watchdog; return when it is about to fire, once."""


class TimerLaboratory(PowerOnlyLaboratory, WatchdogLaboratory):
    """Of a platform whose watchdog counts in the server's management controller: it is always there, and set up or not.

    ``countdown``: seconds that it counts, as the driver was configured here.
    """

    countdown: float

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Return when so much time has passed for the platform."""

    def make_full(self) -> str:
        pytest.skip("there is always room for what nobody plugs in")

    def make_clinging(self, device: WatchdogDevice) -> str:
        pytest.skip("no guest can cling to what is outside of it")

    def make_transient(self, device: WatchdogDevice | None) -> str:
        pytest.skip("no server vanishes when it is switched off")

    def make_with_unmanaged(self) -> tuple[str, WatchdogDevice]:
        pytest.skip("there is one watchdog, and it is managed")

    def define_watchdog(self, server: str, device: WatchdogDevice | None) -> None:
        pytest.skip("nothing is configured but what is there")


def find_model(watchdogs: Watchdogs, *, hot_plug: bool) -> WatchdogModel:
    """A managed model of this kind; skips the test where the platform has none."""
    for model in watchdogs.list_models():
        if model.managed and model.hot_plug is hot_plug:
            return model
    pytest.skip(f"no managed watchdog with hot_plug={hot_plug} on this platform")


def get_watchdogs(laboratory: Laboratory) -> Watchdogs:
    assert laboratory.driver.watchdog is not None
    return laboratory.driver.watchdog


def make_hot(laboratory: Laboratory, expiry_action: str = ExpiryAction.RESET) -> WatchdogDevice:
    return WatchdogDevice(model=find_model(get_watchdogs(laboratory), hot_plug=True).model, expiry_action=expiry_action)


def make_cold(laboratory: Laboratory, expiry_action: str = ExpiryAction.RESET) -> WatchdogDevice:
    return WatchdogDevice(model=find_model(get_watchdogs(laboratory), hot_plug=False).model, expiry_action=expiry_action)


def expect(laboratory: Laboratory, kind: DriverEventKind, server: str, since: int) -> DriverEvent:
    return laboratory.events.wait_for(kind, server, since=since, timeout=laboratory.patience)


def read(laboratory: Laboratory, server: str) -> Watchdog:
    """What the driver says of it, which must be the same in every place where it says it."""
    watchdog = get_watchdogs(laboratory).get_watchdog(server)
    assert laboratory.driver.servers.get_server(server).watchdog == watchdog
    assert [listed.watchdog for listed in laboratory.driver.servers.list_servers() if listed.id == server] == [watchdog]
    return watchdog


def has(watchdog: Watchdog) -> tuple[WatchdogDevice | None, WatchdogDevice | None, bool]:
    return watchdog.configured, watchdog.live, watchdog.pending_restart


class WatchdogConformance:
    """Subclass it beside ``DriverConformance``."""

    # What the platform knows

    def test_models_are_known_without_asking_the_backend(self, laboratory: WatchdogLaboratory) -> None:
        models = get_watchdogs(laboratory).list_models()
        assert models
        assert len({model.model for model in models}) == len(models)
        assert all(model.note and model.expiry_actions for model in models)
        assert laboratory.driver.capabilities().watchdog_models == tuple(models) == tuple(get_watchdogs(laboratory).list_models())

    def test_a_server_can_be_given_managed_models_only(self, laboratory: WatchdogLaboratory) -> None:
        managed = {model.model for model in get_watchdogs(laboratory).list_models() if model.managed}
        for power_state in (PowerState.RUNNING, PowerState.SHUTDOWN):
            assert set(read(laboratory, laboratory.make_watched(None, power_state)).models) <= managed

    # Running servers

    def test_a_server_without_a_watchdog_says_so(self, laboratory: WatchdogLaboratory) -> None:
        for power_state in (PowerState.RUNNING, PowerState.SHUTDOWN):
            assert has(read(laboratory, laboratory.make_watched(None, power_state))) == (None, None, False)

    def test_a_hot_watchdog_is_set_live_and_configured_and_that_is_reported(self, laboratory: WatchdogLaboratory) -> None:
        server, device, since = laboratory.make_watched(None), make_hot(laboratory), laboratory.events.position
        answer = get_watchdogs(laboratory).set_watchdog(server, device)
        assert answer == read(laboratory, server)
        assert has(answer) == (device, device, False)
        expect(laboratory, DriverEventKind.DEFINED, server, since)

    def test_setting_what_is_there_changes_nothing(self, laboratory: WatchdogLaboratory) -> None:
        device = make_hot(laboratory)
        server = laboratory.make_watched(device)
        before = read(laboratory, server)
        assert get_watchdogs(laboratory).set_watchdog(server, device) == before
        assert read(laboratory, server) == before

    def test_every_change_of_the_expiry_action_is_live_at_once(self, laboratory: WatchdogLaboratory) -> None:
        """Where a change would be taken for the word that libvirt was told first, it is replaced: ``dump`` comes and goes here."""
        server = laboratory.make_watched(make_hot(laboratory))
        actions = find_model(get_watchdogs(laboratory), hot_plug=True).expiry_actions
        for action in (*actions, *reversed(actions)):
            device = make_hot(laboratory, action)
            assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (device, device, False)
        assert has(read(laboratory, server)) == (make_hot(laboratory, actions[0]), make_hot(laboratory, actions[0]), False)

    def test_a_hot_watchdog_is_removed_live_and_configured_and_that_is_reported(self, laboratory: WatchdogLaboratory) -> None:
        server, since = laboratory.make_watched(make_hot(laboratory)), laboratory.events.position
        answer = get_watchdogs(laboratory).remove_watchdog(server)
        assert answer == read(laboratory, server)
        assert has(answer) == (None, None, False)
        expect(laboratory, DriverEventKind.DEFINED, server, since)

    def test_removing_what_is_not_there_changes_nothing(self, laboratory: WatchdogLaboratory) -> None:
        for power_state in (PowerState.RUNNING, PowerState.SHUTDOWN):
            server = laboratory.make_watched(None, power_state)
            assert has(get_watchdogs(laboratory).remove_watchdog(server)) == (None, None, False)

    def test_a_cold_watchdog_comes_and_goes_at_the_next_start(self, laboratory: WatchdogLaboratory) -> None:
        server, device = laboratory.make_watched(None), make_cold(laboratory)
        assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (device, None, True)
        assert has(read(laboratory, server)) == (device, None, True)
        assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (device, None, True), "asked for again"
        laboratory.stop(server)
        assert has(read(laboratory, server)) == (device, None, False)
        laboratory.start(server)
        assert has(read(laboratory, server)) == (device, device, False)
        assert has(get_watchdogs(laboratory).remove_watchdog(server)) == (None, device, True)
        assert has(read(laboratory, server)) == (None, device, True)
        assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (device, device, False), "it was there still"

    def test_without_room_a_hot_watchdog_comes_at_the_next_start(self, laboratory: WatchdogLaboratory) -> None:
        server, device = laboratory.make_full(), make_hot(laboratory)
        assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (device, None, True)
        laboratory.stop(server)
        laboratory.start(server)
        assert has(read(laboratory, server)) == (device, device, False)

    def test_the_expiry_action_of_a_paused_server_is_changed_too(self, laboratory: WatchdogLaboratory) -> None:
        """It needs nothing of the guest, which could not let go of a device now."""
        former, device = make_hot(laboratory), make_hot(laboratory, ExpiryAction.POWEROFF)
        server = laboratory.make_watched(former)
        laboratory.pause(server)
        assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (device, device, False)
        laboratory.resume(server)
        assert has(read(laboratory, server)) == (device, device, False)

    def test_what_another_tool_configured_is_pending_and_reported(self, laboratory: WatchdogLaboratory) -> None:
        former, other = make_hot(laboratory), make_hot(laboratory, ExpiryAction.POWEROFF)
        server, since = laboratory.make_watched(former), laboratory.events.position
        laboratory.define_watchdog(server, other)
        expect(laboratory, DriverEventKind.DEFINED, server, since)
        assert has(read(laboratory, server)) == (other, former, True)
        assert has(get_watchdogs(laboratory).set_watchdog(server, former)) == (former, former, False)

    def test_a_half_done_change_is_finished_by_the_same_call_and_taken_back_by_one_with_the_former(
        self, laboratory: WatchdogLaboratory
    ) -> None:
        """Configured already and not live yet, which is where a killed agent may leave it."""
        former, device = make_hot(laboratory), make_hot(laboratory, ExpiryAction.PAUSE)
        for asked in (device, former):
            server = laboratory.make_watched(former)
            laboratory.define_watchdog(server, device)
            assert has(get_watchdogs(laboratory).set_watchdog(server, asked)) == (asked, asked, False)

    def test_a_guest_that_clings_to_its_watchdog_keeps_it_and_that_is_said(self, laboratory: WatchdogLaboratory) -> None:
        former = make_hot(laboratory)
        server = laboratory.make_clinging(former)
        changes: list[Callable[[], Watchdog]] = [
            lambda: get_watchdogs(laboratory).set_watchdog(server, make_hot(laboratory, ExpiryAction.DUMP)),
            lambda: get_watchdogs(laboratory).remove_watchdog(server),
        ]
        for change in changes:
            with pytest.raises(BackendUnavailable) as refusal:
                change()
            assert refusal.value.code is Code.WATCHDOG_NOT_CHANGED
            assert refusal.value.reason
            assert has(read(laboratory, server)) == (former, former, False)

    def test_a_server_that_vanishes_when_it_stops_is_changed_live_only(self, laboratory: WatchdogLaboratory) -> None:
        device = make_hot(laboratory)
        server = laboratory.make_transient(None)
        assert has(get_watchdogs(laboratory).set_watchdog(server, device)) == (None, device, False)
        assert has(read(laboratory, server)) == (None, device, False)
        assert has(get_watchdogs(laboratory).remove_watchdog(server)) == (None, None, False)
        with pytest.raises(ServerUnsupported):
            get_watchdogs(laboratory).set_watchdog(server, make_cold(laboratory))
        assert has(read(laboratory, server)) == (None, None, False)

    # Servers that are off

    def test_a_server_that_is_off_has_it_from_its_next_start_on(self, laboratory: WatchdogLaboratory) -> None:
        server, device = laboratory.make_watched(None, PowerState.SHUTDOWN), make_hot(laboratory)
        answer = get_watchdogs(laboratory).set_watchdog(server, device)
        assert answer == read(laboratory, server)
        assert has(answer) == (device, None, False)
        laboratory.start(server)
        assert has(read(laboratory, server)) == (device, device, False)

    def test_a_server_that_is_off_can_be_given_every_managed_watchdog_one_after_the_other(self, laboratory: WatchdogLaboratory) -> None:
        server = laboratory.make_watched(None, PowerState.SHUTDOWN)
        can_have = get_watchdogs(laboratory).get_watchdog(server).models
        for model in get_watchdogs(laboratory).list_models():
            if model.model not in can_have:
                continue
            for action in model.expiry_actions:
                device = WatchdogDevice(model=model.model, expiry_action=action)
                answer = get_watchdogs(laboratory).set_watchdog(server, device)
                assert has(answer) == (device, None, False)
                assert answer.others == ()
        assert has(get_watchdogs(laboratory).remove_watchdog(server)) == (None, None, False)

    # Refusals, before anything is touched

    def test_what_the_server_cannot_have_is_refused_and_nothing_is_changed(self, laboratory: WatchdogLaboratory) -> None:
        former = make_hot(laboratory)
        models = get_watchdogs(laboratory).list_models()
        refused = [WatchdogDevice(model="no-such-model", expiry_action="reset"), make_hot(laboratory, "no-such-action")]
        refused += [WatchdogDevice(model=model.model, expiry_action=model.expiry_actions[0]) for model in models if not model.managed]
        for power_state in (PowerState.RUNNING, PowerState.SHUTDOWN):
            server = laboratory.make_watched(former, power_state)
            before = read(laboratory, server)
            assert before.configured == former
            for device in refused:
                with pytest.raises(ServerUnsupported) as refusal:
                    get_watchdogs(laboratory).set_watchdog(server, device)
                assert refusal.value.reason
            assert read(laboratory, server) == before

    def test_an_unmanaged_watchdog_is_shown_and_not_touched(self, laboratory: WatchdogLaboratory) -> None:
        server, device = laboratory.make_with_unmanaged()
        before = read(laboratory, server)
        assert (before.configured, before.live, before.others) == (None, None, (device,))
        with pytest.raises(ServerUnsupported, match=device.model):
            get_watchdogs(laboratory).set_watchdog(server, make_hot(laboratory))
        with pytest.raises(ServerUnsupported, match=device.model):
            get_watchdogs(laboratory).remove_watchdog(server)
        assert read(laboratory, server) == before

    def test_an_unknown_server_has_no_watchdog_to_speak_of(self, laboratory: WatchdogLaboratory) -> None:
        for call in self._list_calls(laboratory):
            with pytest.raises(ServerNotFound):
                call(laboratory.unknown_server)

    def test_without_its_backend_nothing_is_read_and_nothing_changed(self, laboratory: WatchdogLaboratory) -> None:
        former = make_hot(laboratory)
        server, watchdogs = laboratory.make_watched(former), get_watchdogs(laboratory)
        resume = laboratory.driver.resume
        with laboratory.without_backend(server):
            for call in self._list_calls(laboratory):
                with pytest.raises(BackendUnavailable):
                    call(server)
            if resume is not None:
                with pytest.raises(BackendUnavailable):
                    resume.resume_server(server)
            assert watchdogs.list_models(), "asked at any time"
        assert has(read(laboratory, server)) == (former, former, False)

    # Firing

    def test_a_firing_is_reported_with_the_platforms_own_word_each_time(self, laboratory: WatchdogLaboratory) -> None:
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.NONE))
        for _ in range(2):
            since, began = laboratory.events.position, datetime.now(UTC)
            laboratory.fire_watchdog(server)
            fired = expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since)
            assert fired.reason == "none"
            assert began - timedelta(seconds=1) <= fired.occurred_at <= datetime.now(UTC)
        assert laboratory.driver.servers.get_server(server).power_state is PowerState.RUNNING

    def test_a_watchdog_fires_with_the_expiry_action_that_was_set_last(self, laboratory: WatchdogLaboratory) -> None:
        """Changed through the driver while it runs; then the server is paused and says why, wherever one looks, and it can be resumed."""
        if not laboratory.knows_guest_states:
            pytest.skip("the platform pauses no server; what its watchdogs do is shown by TimerConformance")
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.NONE))
        get_watchdogs(laboratory).set_watchdog(server, make_hot(laboratory, ExpiryAction.PAUSE))
        since = laboratory.events.position
        laboratory.fire_watchdog(server)
        assert expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since).reason == "pause"
        assert "watchdog" in expect(laboratory, DriverEventKind.PAUSED, server, since).reason
        listed = next(listed for listed in laboratory.driver.servers.list_servers() if listed.id == server)
        for seen in (listed, laboratory.driver.servers.get_server(server)):
            assert seen.power_state is PowerState.PAUSED
            assert "watchdog" in seen.state_reason
        resume = self._get_resume(laboratory)
        resume.resume_server(server)
        expect(laboratory, DriverEventKind.RESUMED, server, since)
        assert laboratory.driver.servers.get_server(server).power_state is PowerState.RUNNING
        resume.resume_server(server)

    def test_a_server_that_is_not_paused_cannot_be_resumed(self, laboratory: WatchdogLaboratory) -> None:
        resume = self._get_resume(laboratory)
        for make in (laboratory.make_stopped, laboratory.make_crashed):
            server = make()
            before = laboratory.driver.servers.get_server(server).power_state
            with pytest.raises(ServerNotRunning):
                resume.resume_server(server)
            assert laboratory.driver.servers.get_server(server).power_state is before
        with pytest.raises(ServerNotFound):
            resume.resume_server(laboratory.unknown_server)

    def test_the_dump_of_a_firing_is_found_and_no_older_one(self, laboratory: WatchdogLaboratory) -> None:
        dumps = self._get_expiry_dumps(laboratory)
        server = laboratory.make_watched(make_hot(laboratory, ExpiryAction.DUMP))
        since, began = laboratory.events.position, datetime.now(UTC)
        laboratory.fire_watchdog(server)
        fired = expect(laboratory, DriverEventKind.WATCHDOG_FIRED, server, since)
        expect(laboratory, DriverEventKind.RESUMED, server, since)
        found = dumps.find_expiry_dump(server, min(began, fired.occurred_at))
        assert found is not None
        assert Path(found.path).is_absolute()
        assert found.size > 0
        assert dumps.find_expiry_dump(server, datetime.now(UTC) + timedelta(seconds=2)) is None
        assert dumps.find_expiry_dump(laboratory.unknown_server, began) is None

    def _list_calls(self, laboratory: WatchdogLaboratory) -> list[Callable[[str], object]]:
        watchdogs, device = get_watchdogs(laboratory), make_hot(laboratory)
        return [watchdogs.get_watchdog, watchdogs.remove_watchdog, lambda server: watchdogs.set_watchdog(server, device)]

    def _get_resume(self, laboratory: WatchdogLaboratory) -> Resume:
        if laboratory.driver.resume is None:
            pytest.skip(f"the driver {laboratory.driver.name} cannot resume servers")
        return laboratory.driver.resume

    def _get_expiry_dumps(self, laboratory: WatchdogLaboratory) -> ExpiryDumps:
        if laboratory.driver.expiry_dumps is None:
            pytest.skip(f"the driver {laboratory.driver.name} finds no dumps")
        return laboratory.driver.expiry_dumps
