"""libvirt's domains as servers, and the NMI: the state is read first, and never is anything sent twice."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from compute_agent.contract.models import PowerState
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerNotFound, ServerNotRunning
from compute_agent.drivers.libvirt.domain_reader import DomainReader
from compute_agent.drivers.libvirt.nmi import LibvirtNmi
from compute_agent.drivers.libvirt.servers import LibvirtServers
from compute_agent.drivers.libvirt.states import describe_state, translate_power_state
from tests.unit.agent.libvirt_fakes import make_error

SERVER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000001"
OTHER = "6f4c1c2e-0f6c-4f6e-9d0e-000000000002"
RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)
NOVA_XML = "<metadata><i:instance xmlns:i='http://openstack.org/xmlns/libvirt/nova/1.1'><i:name>n</i:name></i:instance></metadata>"


class FakeDomain:
    """A virDomain; an exception as the answer of a call is raised."""

    def __init__(self, server: str = SERVER, state: Any = RUNNING, **answers: Any) -> None:
        self.server = server
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {
            "state": state,
            "isPersistent": 1,
            "XMLDesc": "<domain><memory>131072</memory><vcpu>1</vcpu></domain>",
            "controlInfo": [libvirt.VIR_DOMAIN_CONTROL_OK, 0, 0],
            "jobInfo": [0],
            "injectNMI": 0,
            **answers,
        }

    def UUIDString(self) -> str:
        return self.server

    def name(self) -> str:
        return "instance-1"

    def __getattr__(self, call: str) -> Any:
        def answer(*_arguments: Any) -> Any:
            self.asked.append(call)
            value = self.answers[call]
            if isinstance(value, Exception):
                raise value
            return value

        return answer


class FakeLink:
    """A virConnect, and the holders of it that the driver asks."""

    def __init__(self, *domains: FakeDomain) -> None:
        self.domains = {domain.server: domain for domain in domains}
        self.error: Exception | None = None

    def get(self) -> "FakeLink":
        return self

    @contextmanager
    def borrow(self) -> "Iterator[FakeLink]":
        yield self

    def lookupByUUIDString(self, server: str) -> FakeDomain:
        if self.error is not None:
            raise self.error
        if server not in self.domains:
            raise make_error(libvirt.VIR_ERR_NO_DOMAIN)
        return self.domains[server]

    def getAllDomainStats(self, what: int) -> list[tuple[FakeDomain, dict[str, int]]]:
        if self.error is not None:
            raise self.error
        states = [(domain, domain.answers["state"]) for domain in self.domains.values()]
        return [(domain, {"state.state": state, "state.reason": reason}) for domain, (state, reason) in states]

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        assert flags == libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        return [domain for domain in self.domains.values() if not domain.answers["isPersistent"]]


def ignore(server: str) -> None:
    pass


def list_servers(*domains: FakeDomain, pid_files: Path | None = None) -> list[Any]:
    return list(LibvirtServers(FakeLink(*domains), pid_files, ignore).list_servers())


@pytest.mark.parametrize(
    ("state", "reason", "power_state", "words"),
    [
        ("RUNNING", 1, PowerState.RUNNING, "running: booted"),
        ("PAUSED", 1, PowerState.PAUSED, "paused: user"),
        ("PAUSED", 6, PowerState.PAUSED, "paused: watchdog"),
        ("PAUSED", 10, PowerState.CRASHED, "paused: crashed"),
        ("PAUSED", 11, PowerState.PENDING, "paused: starting up"),
        ("PAUSED", 99, PowerState.PAUSED, "paused: reason 99"),
        ("SHUTDOWN", 1, PowerState.SHUTDOWN, "shutting down: user"),
        ("SHUTOFF", 0, PowerState.SHUTDOWN, "shut off"),
        ("SHUTOFF", 2, PowerState.SHUTDOWN, "shut off: destroyed"),
        ("CRASHED", 1, PowerState.CRASHED, "crashed: panicked"),
        ("PMSUSPENDED", 0, PowerState.SUSPENDED, "suspended by guest"),
    ],
)
def test_states_keep_libvirts_own_word(state: str, reason: int, power_state: PowerState, words: str) -> None:
    number = getattr(libvirt, f"VIR_DOMAIN_{state}")
    assert translate_power_state(number, reason) is power_state
    assert describe_state(number, reason) == words


def test_a_state_of_a_newer_libvirt_is_not_taken_for_running() -> None:
    assert translate_power_state(42, 7) is PowerState.PENDING
    assert describe_state(42, 7) == "state 42: reason 7"


def test_the_list_has_servers_that_are_off_too() -> None:
    off = FakeDomain(OTHER, (libvirt.VIR_DOMAIN_SHUTOFF, 0))
    assert {server.id: server.power_state for server in list_servers(FakeDomain(), off)} == {
        SERVER: PowerState.RUNNING,
        OTHER: PowerState.SHUTDOWN,
    }


def test_a_domain_that_goes_away_while_it_is_read_is_left_out() -> None:
    gone = FakeDomain(OTHER, XMLDesc=make_error(libvirt.VIR_ERR_NO_DOMAIN))
    assert [server.id for server in list_servers(FakeDomain(), gone)] == [SERVER]


@pytest.mark.parametrize("answer", [make_error(libvirt.VIR_ERR_INTERNAL_ERROR), "<network/>"])
def test_a_list_that_cannot_be_complete_is_none(answer: Any) -> None:
    """A server that is left out would count as gone, one without its owner would show to strangers."""
    with pytest.raises(BackendUnavailable):
        list_servers(FakeDomain(), FakeDomain(OTHER, XMLDesc=answer))


def test_a_list_that_libvirt_refuses_is_unavailable_not_empty() -> None:
    link = FakeLink()
    link.error = make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)
    with pytest.raises(BackendUnavailable):
        LibvirtServers(link, None, ignore).list_servers()


def test_transient_domains_are_marked() -> None:
    assert not list_servers(FakeDomain(isPersistent=0))[0].persistent


@pytest.mark.parametrize(
    ("reason", "persistent", "job", "arriving"),
    [
        (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, 0, make_error(libvirt.VIR_ERR_OPERATION_INVALID), True),
        (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, 1, [2], False),
        (libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, 0, [0], True),
        (libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, 1, [0], False),
        (libvirt.VIR_DOMAIN_PAUSED_USER, 0, [0], False),
    ],
)
def test_only_a_server_on_its_way_in_is_arriving(reason: int, persistent: int, job: Any, arriving: bool) -> None:
    """Both sides of a migration are paused for it; only the source has statistics about it."""
    domain = FakeDomain(state=(libvirt.VIR_DOMAIN_PAUSED, reason), isPersistent=persistent, jobInfo=job)
    assert list_servers(domain)[0].arriving is arriving
    assert LibvirtServers(FakeLink(domain), None, ignore).get_server(SERVER).arriving is arriving


@pytest.mark.parametrize(("state", "stopping"), [(libvirt.VIR_DOMAIN_SHUTDOWN, True), (libvirt.VIR_DOMAIN_SHUTOFF, False)])
def test_a_domain_whose_guest_has_ended_is_stopping_until_its_process_has_too(state: int, stopping: bool) -> None:
    [listed] = list_servers(FakeDomain(state=(state, 1)))
    assert (listed.power_state, listed.stopping) == (PowerState.SHUTDOWN, stopping)


def test_a_run_began_when_qemu_was_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "instance-1.pid"
    pid_file.touch()
    started_at = list_servers(FakeDomain(), pid_files=tmp_path)[0].started_at
    assert started_at is not None
    assert started_at.timestamp() == pytest.approx(pid_file.stat().st_mtime)


def test_the_start_of_a_run_is_unknown_without_the_pid_file(tmp_path: Path) -> None:
    assert list_servers(FakeDomain(), pid_files=tmp_path)[0].started_at is None


def test_a_server_that_is_off_has_no_run(tmp_path: Path) -> None:
    (tmp_path / "instance-1.pid").touch()
    assert list_servers(FakeDomain(state=(libvirt.VIR_DOMAIN_SHUTOFF, 1)), pid_files=tmp_path)[0].started_at is None


def make_watched(live: str, note: str = "") -> str:
    kind = "<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>"
    return f"<domain type='kvm' id='3'>{kind}<metadata>{note}</metadata><devices>{live}</devices></domain>"


def test_the_list_says_which_watchdog_a_server_has_and_which_it_will_have() -> None:
    xml = {0: make_watched("<watchdog model='i6300esb'/>"), libvirt.VIR_DOMAIN_XML_INACTIVE: make_watched("").replace(" id='3'", "")}
    domain = FakeDomain()
    domain.XMLDesc = lambda flags=0: xml[flags]
    device = WatchdogDevice(model="i6300esb", expiry_action="reset")
    expected = Watchdog(configured=None, live=device, pending_restart=True, models=("i6300esb", "ib700"))
    assert list_servers(domain)[0].watchdog == expected
    transient = FakeDomain(isPersistent=0, XMLDesc=xml[0])
    assert list_servers(transient)[0].watchdog == Watchdog(live=device, models=("i6300esb", "ib700"))


@pytest.mark.parametrize(("run", "told"), [("host/3", [SERVER]), ("host/2", [])])
def test_a_watchdog_that_was_lost_is_told_wherever_servers_are_read(run: str, told: list[str]) -> None:
    note = f"<c:live xmlns:c='https://crashcart.dev/xmlns/watchdog/1.0' run='{run}' leaving='i6300esb:reset'/>"
    domain = FakeDomain(XMLDesc=make_watched("", note))
    domain.answers["connect"] = FakeDomain(getHostname="host")
    lost: list[str] = []
    LibvirtServers(FakeLink(domain), None, lost.append).list_servers()
    assert lost == told


@pytest.mark.parametrize("flags", [0, libvirt.VIR_DOMAIN_XML_INACTIVE])
def test_a_watchdog_that_somebody_else_added_is_told_by_the_next_list_in_whichever_xml_it_is(flags: int) -> None:
    xml = {0: make_watched(""), libvirt.VIR_DOMAIN_XML_INACTIVE: make_watched("").replace(" id='3'", "")}
    domain = FakeDomain()
    domain.XMLDesc = lambda flags=0: xml[flags]
    servers = LibvirtServers(FakeLink(domain), None, ignore)
    assert servers.list_servers()[0].watchdog.others == ()
    xml[flags] = xml[flags].replace("<devices>", "<devices><watchdog model='diag288' action='reset'/>")
    assert servers.list_servers()[0].watchdog.others == (WatchdogDevice(model="diag288", expiry_action="reset"),)
    assert servers.get_server(SERVER).watchdog.others != ()


def test_what_did_not_change_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read the XML was most of what an idle agent did."""
    servers = LibvirtServers(FakeLink(FakeDomain(XMLDesc=make_watched(""))), None, ignore)
    before = servers.list_servers()
    monkeypatch.setattr("defusedxml.ElementTree.fromstring", None)
    assert servers.list_servers() == before
    assert servers.get_server(SERVER) == before[0]


def test_a_domain_that_becomes_persistent_has_a_configuration_from_then_on() -> None:
    domain = FakeDomain(isPersistent=0, XMLDesc=make_watched("<watchdog model='i6300esb'/>"))
    servers = LibvirtServers(FakeLink(domain), None, ignore)
    device = WatchdogDevice(model="i6300esb", expiry_action="reset")
    for is_persistent, configured in ((0, None), (1, device), (0, None)):
        domain.answers["isPersistent"] = is_persistent
        assert servers.list_servers()[0].watchdog.configured == configured


def test_what_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host starts and ends more domains than it ever has."""
    reader = DomainReader(None)
    domains = [FakeDomain(SERVER), FakeDomain(OTHER)]
    for domain in domains:
        reader.read(domain, is_persistent=True)
    reader.forget_all_but([OTHER])
    monkeypatch.setattr("defusedxml.ElementTree.fromstring", lambda *_, **__: pytest.fail("it is read anew"))
    reader.read(domains[1], is_persistent=True)
    with pytest.raises(pytest.fail.Exception):
        reader.read(domains[0], is_persistent=True)


def test_a_note_is_compared_with_the_process_each_time() -> None:
    """Memory may be restored into another one under the same number: the same text, and the note is void."""
    note = "<c:live xmlns:c='https://crashcart.dev/xmlns/watchdog/1.0' run='host/3' leaving='i6300esb:reset'/>"
    domain = FakeDomain(XMLDesc=make_watched("", note))
    domain.answers["connect"] = FakeDomain(getHostname="host")
    lost: list[str] = []
    servers = LibvirtServers(FakeLink(domain), None, lost.append)
    servers.list_servers()
    domain.answers["connect"] = FakeDomain(getHostname="another host")
    servers.list_servers()
    assert lost == [SERVER]


def test_what_is_not_seen_of_nova_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    servers = LibvirtServers(FakeLink(FakeDomain(XMLDesc=f"<domain>{NOVA_XML}</domain>")), None, ignore)
    with caplog.at_level(logging.WARNING):
        assert [server.foreign_owner for server in servers.list_servers()] == ["nova"]
        servers.list_servers()
    assert caplog.text.count("Nova") == 2, "one message, which names Nova twice"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("server", [OTHER, "no uuid at all"])
def test_an_unknown_server_is_not_found(server: str) -> None:
    with pytest.raises(ServerNotFound):
        LibvirtServers(FakeLink(FakeDomain()), None, ignore).get_server(server)


def inject(domain: FakeDomain) -> list[str]:
    LibvirtNmi(FakeLink(domain)).inject_nmi(SERVER)
    return domain.asked


@pytest.mark.parametrize("state", [RUNNING, (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)])
def test_a_running_or_paused_server_gets_one_nmi_after_its_state_was_read(state: tuple[int, int]) -> None:
    assert inject(FakeDomain(state=state)) == ["state", "controlInfo", "injectNMI"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ((libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED), "shut off: destroyed"),
        ((libvirt.VIR_DOMAIN_SHUTDOWN, 0), "shutting down"),
        ((libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED), "crashed: panicked"),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED), "paused: crashed"),
        ((libvirt.VIR_DOMAIN_PMSUSPENDED, 0), "suspended by guest"),
    ],
)
def test_nobody_there_means_nothing_sent(state: tuple[int, int], words: str) -> None:
    domain = FakeDomain(state=state)
    with pytest.raises(ServerNotRunning, match=words):
        inject(domain)
    assert "injectNMI" not in domain.asked


@pytest.mark.parametrize(
    "control", [[libvirt.VIR_DOMAIN_CONTROL_ERROR, 2, 0], [libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 6000]], ids=["lost", "silent for 6 s"]
)
def test_no_call_queues_behind_a_stuck_qemu(control: list[int]) -> None:
    domain = FakeDomain(controlInfo=control)
    with pytest.raises(BackendUnavailable):
        inject(domain)
    assert "injectNMI" not in domain.asked


@pytest.mark.parametrize(
    "control",
    [
        [libvirt.VIR_DOMAIN_CONTROL_JOB, 0, 3600_000],
        [libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 40],
        [libvirt.VIR_DOMAIN_CONTROL_ERROR, libvirt.VIR_DOMAIN_CONTROL_ERROR_REASON_INTERNAL, 0],
        make_error(libvirt.VIR_ERR_NO_SUPPORT),
        make_error(libvirt.VIR_ERR_OPERATION_INVALID),
    ],
    ids=["long backup", "busy just now", "detach in progress", "no QEMU", "off meanwhile"],
)
def test_libvirt_decides_where_the_monitor_is_not_stuck(control: Any) -> None:
    assert inject(FakeDomain(controlInfo=control)).count("injectNMI") == 1


@pytest.mark.parametrize("call", ["state", "controlInfo"])
def test_a_connection_lost_before_the_call_means_nothing_sent(call: str) -> None:
    domain = FakeDomain(**{call: make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)})
    with pytest.raises(BackendUnavailable):
        inject(domain)
    assert "injectNMI" not in domain.asked


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_OPERATION_INVALID])
def test_a_failed_injection_is_never_repeated(code: int) -> None:
    domain = FakeDomain(injectNMI=make_error(code))
    with pytest.raises(DriverError):
        inject(domain)
    assert domain.asked.count("injectNMI") == 1


def test_a_connection_lost_in_the_call_means_perhaps_sent() -> None:
    with pytest.raises(OutcomeUnknown):
        inject(FakeDomain(injectNMI=make_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC)))
