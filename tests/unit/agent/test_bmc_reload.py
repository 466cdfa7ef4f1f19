"""A reload: what is unchanged goes on undisturbed, what came and went is told, and a file that cannot be read changes nothing."""

from pathlib import Path

import pytest

from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound
from compute_agent.drivers.models import DriverEventKind
from tests.unit.agent.bmc_parts import PANIC, Bench, kinds, make_entry, make_uuid


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, 2)
    bench.begin()
    return bench


def test_unchanged_machines_keep_their_bmcs_and_their_readings(bench: Bench) -> None:
    before = list(bench.protocol.bmcs)
    assert bench.reload([make_entry(2), make_entry(1)]) == []
    assert bench.protocol.bmcs == before
    assert not any(bmc.is_closed for bmc in before)
    assert [server.unread for server in bench.driver.servers.list_servers()] == ["", ""]
    assert bench.look() == []


def test_a_machine_that_came_is_defined_when_it_was_looked_at_and_is_compared_then(bench: Bench) -> None:
    assert bench.reload([make_entry(1), make_entry(2), make_entry(3)]) == []
    (pending,) = [server for server in bench.driver.servers.list_servers() if server.id == make_uuid(3)]
    assert (pending.power_state, pending.unread) == (PowerState.PENDING, "its BMC was not asked yet")
    calls = len(bench.machine(3).calls)
    told = bench.look()
    assert [(str(event.kind), event.server) for event in told] == [(kind, make_uuid(3)) for kind in ("defined", "log_read", "backend_back")]
    bench.driver.servers.get_server(make_uuid(3))
    assert len(bench.machine(3).calls) == calls + 1, "whoever asks at once for what was defined asks nobody's BMC"


def test_a_machine_that_came_and_is_silent_is_told_as_both(bench: Bench) -> None:
    bench.machine(3).refusal = "no answer"
    bench.reload([make_entry(1), make_entry(2), make_entry(3)])
    assert kinds(bench.look()) == ["defined", "backend_lost"]
    with pytest.raises(BackendUnavailable, match="no answer"):
        bench.driver.servers.get_server(make_uuid(3))


def test_a_machine_that_went_is_undefined_and_its_bmc_let_go(bench: Bench) -> None:
    (gone,) = bench.reload([make_entry(1)])
    assert (gone.kind, gone.server) == (DriverEventKind.UNDEFINED, make_uuid(2))
    assert [bmc.is_closed for bmc in bench.protocol.bmcs] == [False, True]
    with pytest.raises(ServerNotFound):
        bench.driver.servers.get_server(make_uuid(2))
    assert bench.look(31) == []


def test_what_is_logged_while_a_machine_is_not_served_is_no_news_when_it_comes_back(bench: Bench) -> None:
    bench.machine(1).write(PANIC)
    assert kinds(bench.look(31)) == ["panicked"]
    bench.reload([make_entry(2)])
    bench.machine(1).write(PANIC)
    bench.reload([make_entry(1), make_entry(2)])
    assert kinds(bench.look(31)) == ["defined", "log_read", "backend_back"]


def test_another_bmcs_log_is_not_read_from_where_the_former_ones_was(bench: Bench) -> None:
    """A look that begins when the reload has half happened."""
    bench.machine(9).write(PANIC)
    bench.write([make_entry(1, address=make_entry(9)["address"]), make_entry(2)])
    changes = bench.parts.fleet.load()
    assert bench.look(31) == []
    bench.parts.poller.update(changes)
    assert kinds(bench.look(1)) == ["defined", "log_read", "backend_back"]


def test_nothing_is_told_of_a_machine_that_went_while_it_was_looked_at(bench: Bench) -> None:
    bench.machine(2).write(PANIC)
    bench.machine(2).during_poll = lambda: bench.reload([make_entry(1)]).clear()
    told = bench.look(31)
    assert [(event.kind, event.server) for event in told] == [(DriverEventKind.UNDEFINED, make_uuid(2))]


def test_a_new_name_is_told_after_a_new_look_and_costs_no_connection(bench: Bench) -> None:
    bench.reload([make_entry(1, name="web"), make_entry(2)])
    assert bench.driver.servers.list_servers()[0].name == "web"
    (told,) = bench.look()
    assert (told.kind, told.server) == (DriverEventKind.DEFINED, make_uuid(1))
    assert len(bench.protocol.bmcs) == 2


def test_new_credentials_are_a_new_connection_to_the_same_log(bench: Bench) -> None:
    bench.machine(1).write(PANIC)
    bench.reload([make_entry(1, privilege="operator"), make_entry(2)])
    assert [bmc.is_closed for bmc in bench.protocol.bmcs] == [True, False, False]
    assert kinds(bench.look()) == ["defined", "panicked"]


def test_a_look_that_a_reload_cuts_short_loses_nobody(bench: Bench) -> None:
    def reload_once() -> None:
        bench.machine(1).during_poll = lambda: None
        bench.reload([make_entry(1, privilege="operator"), make_entry(2)])

    bench.machine(1).during_poll = reload_once
    assert kinds(bench.look(31)) == ["defined"]
    assert bench.driver.servers.list_servers()[0].unread == ""


def test_another_bmc_has_another_log_and_its_machine_is_compared(bench: Bench) -> None:
    bench.machine(9).write(PANIC)
    bench.machine(9).switch(PowerState.SHUTDOWN)
    bench.reload([make_entry(1, address=make_entry(9)["address"]), make_entry(2)])
    assert bench.driver.servers.list_servers()[0].unread
    assert kinds(bench.look()) == ["defined", "log_read", "backend_back"]


def test_an_entry_that_became_wrong_is_lost_with_its_reason_and_found_again_when_it_is_mended(bench: Bench) -> None:
    told = bench.reload([make_entry(1, port=0), make_entry(2)])
    assert kinds(told) == ["defined", "backend_lost"]
    assert "port: it must be a whole number" in told[1].reason
    seen = bench.driver.servers.list_servers()
    assert [(server.id, bool(server.unread)) for server in sorted(seen, key=lambda server: server.id)] == [
        (make_uuid(1), True),
        (make_uuid(2), False),
    ]
    bench.machine(1).write(PANIC)
    assert bench.look(31) == [], "nobody looks at it"
    assert bench.reload([make_entry(1), make_entry(2)]) == []
    assert kinds(bench.look()) == ["defined", "panicked", "backend_back"]


def test_a_file_that_cannot_be_read_leaves_what_is_in_force(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.path.write_text("machines: [")
    assert bench.driver.reload is not None
    bench.driver.reload.reload()
    assert "stays in force: correct it, then send SIGHUP" in caplog.text
    assert len(bench.driver.servers.list_servers()) == 2
    assert kinds(bench.told).count("undefined") == 0


def test_a_file_that_can_be_read_at_last_begins_the_first_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.path.unlink()
    bench.restart({})
    assert bench.told == []
    assert bench.reload([make_entry(1)]) == []
    assert kinds(bench.look()) == ["log_read", "backend_back"]


def test_after_the_end_nothing_is_told_nor_read(bench: Bench) -> None:
    assert bench.driver.lifecycle is not None
    bench.driver.lifecycle.close()
    bench.machine(1).write(PANIC)
    assert bench.look(31) == []
    assert bench.reload([]) == []
    assert all(bmc.is_closed for bmc in bench.protocol.bmcs)
    assert bench.protocol.is_closed
