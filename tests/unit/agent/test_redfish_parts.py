"""What a machine says of itself over Redfish, and that no odd answer does more than cost what it is about."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.diagnostics import Health, Sensor, SensorKind
from compute_agent.contract.models import PowerState
from compute_agent.drivers.bmc.protocol import MachineParts
from compute_agent.drivers.models import DiskCounters, NicCounters
from compute_agent.drivers.redfish.documents import as_path, find_mac, find_moment, find_number
from compute_agent.drivers.redfish.errors import ExchangeError, read_refusal
from compute_agent.drivers.redfish.log import MachineLog
from compute_agent.drivers.redfish.parts import read_parts
from compute_agent.drivers.redfish.system import SystemFinder, read_state
from tests.redfish_server import SYSTEM, refer
from tests.unit.agent.redfish_parts import LIMIT, PaperVisit, connected

CHASSIS = "/redfish/v1/Chassis/1"


def read(visit: PaperVisit) -> MachineParts:
    _path, system = SystemFinder(None).read(visit.as_visit())
    return read_parts(visit.as_visit(), system, MachineLog(SystemClock()))


def test_everything_that_a_bmc_tells_is_told() -> None:
    parts = read(PaperVisit())
    assert (parts.cpus, parts.memory_kib, parts.errors) == (96, 512 * 1024, {})
    assert list(parts.nics) == [NicCounters(device="eth0", mac="52:54:00:ab:cd:ef")]
    assert list(parts.disks) == [DiskCounters(device="nvme0"), DiskCounters(device="nvme1")]
    assert (parts.hardware.power, parts.hardware.power_watts, parts.hardware.health) == ("on", 312.5, Health.WARNING)
    assert parts.hardware.firmware == {"BIOS": "1.2.3", "BMC": "7.10"}
    assert parts.hardware.sensors == (
        Sensor(name="CPU", kind=SensorKind.TEMPERATURE, value=41, unit="°C", health=Health.OK),
        Sensor(name="Fan 1", kind=SensorKind.FAN, value=2100, unit="RPM"),
        Sensor(name="12V", kind=SensorKind.VOLTAGE, value=12.1, unit="V"),
    )


def test_the_newer_sensors_are_read_where_the_older_ones_are_gone() -> None:
    visit = PaperVisit()
    visit.documents[CHASSIS] = {
        "Sensors": {"@odata.id": f"{CHASSIS}/Sensors"},
        "EnvironmentMetrics": {"@odata.id": f"{CHASSIS}/EnvironmentMetrics"},
    }
    visit.documents[f"{CHASSIS}/Sensors"] = {"Members": refer(f"{CHASSIS}/Sensors/t", f"{CHASSIS}/Sensors/gone")}
    visit.documents[f"{CHASSIS}/Sensors/t"] = {"Name": "Inlet", "ReadingType": "Temperature", "Reading": 21.5, "ReadingUnits": "Cel"}
    visit.documents[f"{CHASSIS}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": 99}}
    hardware = read(visit).hardware
    assert hardware.sensors == (Sensor(name="Inlet", kind=SensorKind.TEMPERATURE, value=21.5, unit="°C"),)
    assert hardware.power_watts == 99


def test_processors_are_counted_by_threads_where_the_summary_only_knows_sockets() -> None:
    visit = PaperVisit()
    processors = f"{SYSTEM}/Processors"
    visit.documents[SYSTEM] |= {"ProcessorSummary": {"Count": 2}, "Processors": {"@odata.id": processors}}
    visit.documents[processors] = {"Members": refer(f"{processors}/1", f"{processors}/2", f"{processors}/3")}
    for name, kind, threads in (("1", "CPU", 32), ("2", "CPU", 32), ("3", "GPU", 1000)):
        visit.documents[f"{processors}/{name}"] = {"ProcessorType": kind, "TotalThreads": threads}
    assert read(visit).cpus == 64


@pytest.mark.parametrize(("older", "disks", "problems"), [(True, ["sda"], set()), (False, [], {"disks"})])
def test_disks_of_the_older_kind_are_told_where_a_bmc_fails_over_the_newer_one(older: bool, disks: list[str], problems: set[str]) -> None:
    with connected() as at:
        at.small.answering[("GET", f"{SYSTEM}/Storage")] = lambda handler: handler.refuse(500, "InternalError", "No such storage.")
        if older:
            at.small.documents[SYSTEM]["SimpleStorage"] = {"@odata.id": f"{SYSTEM}/SimpleStorage"}
            at.small.documents[f"{SYSTEM}/SimpleStorage"] = {"Members": [{"Devices": [{"Name": "sda"}, {"CapacityBytes": 1}]}]}
        parts = at.bmc.read_parts(LIMIT)
    assert [disk.device for disk in parts.disks] == disks
    assert set(parts.errors) == problems


def test_what_cannot_be_read_is_left_out_and_named() -> None:
    with connected() as at:
        del at.small.documents[SYSTEM]["MemorySummary"], at.small.documents[SYSTEM]["ProcessorSummary"]
        at.small.answering[("GET", f"{CHASSIS}/Thermal")] = lambda handler: handler.refuse(500, "InternalError", "It is too hot.")
        parts = at.bmc.read_parts(LIMIT)
    assert (parts.cpus, parts.memory_kib) == (None, None)
    assert parts.hardware.firmware["BIOS"] == "1.2.3"
    assert set(parts.errors) == {"cpus", "memory", "sensors"}
    assert "too hot" in parts.errors["sensors"]


@pytest.mark.parametrize(
    ("word", "power_state"),
    [("On", PowerState.RUNNING), ("Paused", PowerState.RUNNING), ("PoweringOff", PowerState.RUNNING), ("PoweringOn", PowerState.SHUTDOWN)],
)
def test_power_on_its_way_is_what_it_still_is(word: str, power_state: PowerState) -> None:
    state = read_state({"PowerState": word, "LastResetTime": "2026-05-04T03:02:01+02:00"})
    assert (state.power_state, state.reason) == (power_state, word)
    started_at = datetime(2026, 5, 4, 1, 2, 1, tzinfo=UTC)
    assert state.started_at == (started_at if power_state is PowerState.RUNNING else None)


@pytest.mark.parametrize("word", [None, "", "Sleeping", 1])
def test_a_power_state_that_is_none_is_not_guessed(word: object) -> None:
    with pytest.raises(ExchangeError):
        read_state({"PowerState": word})


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["On", SYSTEM, "//evil/x", "9" * 400]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["@odata.id", "Members", "Name", "Status"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(pick=st.randoms(use_true_random=False), odd=ODD)
def test_an_odd_value_anywhere_costs_a_part_at_most(pick: Any, odd: Any) -> None:
    visit = PaperVisit()
    path = pick.choice(sorted(visit.documents))
    document = dict(visit.documents[path])
    visit.documents[path] = document
    key = pick.choice(sorted(document))
    inner = document[key]
    if isinstance(inner, dict) and pick.random() < 0.5:
        document[key] = inner | {pick.choice(sorted(inner)): odd}
    elif isinstance(inner, list) and pick.random() < 0.5:
        document[key] = [odd, *inner]
    elif pick.random() < 0.2:
        visit.documents[path] = odd
    else:
        document[key] = odd
    try:
        assert read(visit).state.reason
    except ExchangeError:
        return


@given(
    body=st.recursive(
        st.none() | st.text(max_size=3) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["error", "@Message.ExtendedInfo", "Message", "MessageId", "message"]), inner, max_size=3)
        ),
    )
)
@settings(max_examples=25, deadline=None)
def test_any_refusal_has_a_text(body: Any) -> None:
    assert "500" in str(read_refusal(500, body))


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("/a?b=c", "/a?b=c"),
        ("https://other/a", "/a"),
        ("//other/a", "/a"),
        ("https://o//x", None),
        ("a", None),
        ("", None),
        (7, None),
        ("/a\nb", "/ab"),
        ("http://[", None),
    ],
)
def test_a_link_leads_to_the_same_bmc_or_nowhere(link: object, path: str | None) -> None:
    assert as_path(link) == path


def test_values_of_other_types_and_sizes_are_none() -> None:
    assert [find_number({"x": value}, "x") for value in (True, "7.5", float("nan"), float("inf"), "abc", 10**400, None)] == [
        None,
        7.5,
        None,
        None,
        None,
        None,
        None,
    ]
    assert find_mac({"x": "52-54-00-AB-CD"}, "x") is None
    assert [find_moment({"x": value}, "x") for value in ("1970-01-01T00:00:09Z", "soon", "0001-01-01T00:00:00+14:00", 5)] == [None] * 4
