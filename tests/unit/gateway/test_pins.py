"""How much of the contract agents are told: what an operator may write, and an automatic pin that follows the fleet."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from api_gateway import engine, wsgi
from api_gateway.config import load_config
from api_gateway.fleet_versions import FleetVersions, find_lowest_version
from api_gateway.pins import parse_pin, read_pin
from api_gateway.rpc_versions import AgentTooOld, Speech
from api_gateway.store import Store, agents
from api_gateway.version_numbers import find_version, understands
from api_gateway.wsgi import create_app
from compute_agent.contract import versions
from compute_agent.contract.transport import oslo_messaging
from compute_agent.contract.versions import ReleaseVersions, RpcVersion
from tests.fakes import FakeClock
from tests.http.application import create_application
from tests.http.fleet import HOST, RUNNING
from tests.unit.gateway.store_parts import FakeHost

version_is_compatible = oslo_messaging._utils.version_is_compatible
OLDEST, OWN = versions.RPC_HISTORY[0].number, versions.RPC_API_VERSION
OLD_RELEASE, OLD_RPC = next((name, said.rpc) for name, said in versions.RELEASES.items())
NEW_METHOD = versions.RPC_HISTORY[-1].methods[0]
_INCARNATIONS = itertools.count(2)


@dataclass(frozen=True)
class Spoken:
    """An agent's word of itself."""

    rpc_version: str
    host: str = "a"
    release: str = OLD_RELEASE


def beat(store: Store, clock: FakeClock, host: str, rpc_version: str = OWN, *, stopping: bool = False) -> None:
    """A host whose agent speaks this is heard."""
    fake = FakeHost(store, clock, host)
    fake.incarnation = next(_INCARNATIONS)
    fake.deliver(fake.build_heartbeat(full=True, stopping=stopping).model_copy(update={"rpc_version": rpc_version}))


@pytest.mark.parametrize(
    ("level", "cap"),
    [
        ("", None),
        ("auto", None),
        (OLD_RELEASE, OLD_RPC),
        (f"{OLD_RELEASE}.0", OLD_RPC),
        (f" {versions.VERSION} ", OWN),
        (f"rpc-{OLDEST}", OLDEST),
        (f"rpc-{OWN}", OWN),
        (OWN, OWN),
    ],
)
def test_a_pin_is_a_release_or_a_version_or_automatic(level: str, cap: str | None) -> None:
    pin = parse_pin(level)
    assert (pin.cap, pin.is_automatic) == (cap, level == "auto")


def test_a_number_that_is_a_release_and_a_version_is_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the prefix says that the version is meant; a bare one is taken as long as no release has that name."""
    assert (parse_pin(OLDEST).cap, parse_pin(f"rpc-{OLDEST}").cap) == (OLD_RPC, OLDEST)
    assert (parse_pin(OWN).is_bare, parse_pin(f"rpc-{OWN}").is_bare, parse_pin(OLD_RELEASE).is_bare) == (True, False, False)
    monkeypatch.setitem(versions.RELEASES, OWN, ReleaseVersions(rpc=OLDEST, event=versions.EVENT_VERSION))
    assert (parse_pin(OWN).cap, parse_pin(OWN).is_bare) == (OLDEST, False)


@pytest.mark.parametrize("level", ["9.9", "rpc-9.9", f"rpc-{OWN}.0", "automatic", "juno", f"{OLD_RELEASE}.x", "rpc-auto"])
def test_a_pin_that_names_nothing_is_refused_and_says_what_there_is(level: str) -> None:
    with pytest.raises(ValueError, match=rf"= {level}: neither auto, nor a release \({OLD_RELEASE}, .*rpc-{OLDEST}"):
        parse_pin(level)


def test_the_pin_is_read_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text(f"[upgrade_levels]\ncompute_agent = {OLD_RELEASE}\n")
    assert read_pin(load_config(["--config-file", str(path)], prog="test")).cap == OLD_RPC
    assert read_pin(load_config([], config_files=[])).configured == ""


def test_neither_api_nor_engine_starts_under_a_pin_that_names_nothing(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{database}\n[dispatcher]\nwake_socket =\n[upgrade_levels]\ncompute_agent = juno\n")
    for main in (wsgi.main, engine.main):
        assert main(["--config-file", str(path)]) == 1
        assert "[upgrade_levels] compute_agent = juno: neither auto" in capsys.readouterr().err


ODD = ("", "1", "1.", ".1", "1.x", "-1.0", "1.0.0.0", "1.٣", "01.3", "1." + "9" * 5000, "1.4\n", "none")


@pytest.mark.parametrize("odd", ODD)
def test_a_version_that_cannot_be_read_understands_nothing_and_harms_nobody(odd: str) -> None:
    assert find_version(odd) is None
    assert not understands(odd, OLDEST)
    obstacle = Speech().find_obstacle("ping", Spoken(odd))
    assert obstacle is not None
    assert obstacle.startswith("The agent on a (release")
    assert find_lowest_version([odd, OWN]) == OWN


def test_understanding_is_what_the_messaging_library_takes_it_for() -> None:
    numbers = [f"{major}.{minor}" for major in range(3) for minor in (0, 1, 2, 9, 10, 11)]
    for spoken in numbers:
        for needed in numbers:
            assert understands(spoken, needed) == version_is_compatible(spoken, needed)


@pytest.mark.parametrize(
    ("spoken", "lowest"),
    [
        ([], None),
        ([OWN, OLD_RPC], OLD_RPC),
        (["1.10", "1.9"], OWN),
        (["1.99"], OWN),
        (["2.0", "0.9", "?"], None),
        (["2.0", "0.9", OLDEST], OLDEST),
    ],
)
def test_the_lowest_is_that_of_those_who_can_be_told_anything_and_no_higher_than_ours(spoken: list[str], lowest: str | None) -> None:
    assert find_lowest_version(spoken) == lowest


def test_an_automatic_pin_follows_agents_as_they_come_go_and_fall_silent(store: Store, clock: FakeClock) -> None:
    fleet = FleetVersions(store, clock)
    assert fleet.find_lowest() is None

    def look() -> str | None:
        clock.advance(1)
        return fleet.find_lowest()

    beat(store, clock, "a")
    assert look() == OWN
    beat(store, clock, "b", OLD_RPC)
    assert fleet.find_lowest() == OWN, "what was read is good for a second"
    assert look() == OLD_RPC
    beat(store, clock, "b", OLD_RPC, stopping=True)
    assert look() == OLD_RPC, "it may come back as it was"
    beat(store, clock, "b")
    assert look() == OWN
    beat(store, clock, "b", OLD_RPC)
    assert look() == OLD_RPC
    with store.write() as c:
        agents.forget_host(c, "b", now=clock.now())
        assert fleet.find_lowest(c, is_fresh=True) == OWN, "read in the transaction that one is in"


@pytest.fixture
def fleet(store: Store, clock: FakeClock) -> FleetVersions:
    """Two hosts of this release and one of the one before."""
    for host, spoken in (("a", OWN), ("b", OWN), ("c", OLD_RPC)):
        beat(store, clock, host, spoken)
    return FleetVersions(store, clock)


@pytest.mark.parametrize(
    ("level", "agent", "sentence"),
    [
        ("", Spoken(OWN), None),
        (
            "",
            Spoken(OLD_RPC, "c"),
            "The agent on c (release 1.0) does not support this: {method} needs RPC version {own}, it speaks {old}.",
        ),
        ("auto", Spoken(OLD_RPC, "c"), "The agent on c (release 1.0) does not support this"),
        ("auto", Spoken(OWN), "Some agent speaks no more than RPC version {old}, so none is told this: {method} needs {own}."),
        (OLD_RELEASE, Spoken(OWN), "This gateway is pinned to RPC version {old} and does not tell the agent on a (release 1.0) this"),
        (versions.RELEASE, Spoken(OWN), None),
    ],
)
def test_a_refusal_says_who_does_not_take_what_and_what_to_do(
    fleet: FleetVersions, level: str, agent: Spoken, sentence: str | None
) -> None:
    speech = Speech(parse_pin(level), fleet)
    obstacle = speech.find_obstacle(NEW_METHOD, agent)
    if sentence is None:
        assert obstacle is None
        speech.refuse_unless_taken(NEW_METHOD, agent)
    else:
        assert str(obstacle).startswith(sentence.format(method=NEW_METHOD, own=OWN, old=OLD_RPC))
        with pytest.raises(AgentTooOld, match=r"needs"):
            speech.refuse_unless_taken(NEW_METHOD, agent)


def test_nobody_is_refused_for_an_old_agent_that_went_a_moment_ago(store: Store, clock: FakeClock, fleet: FleetVersions) -> None:
    speech = Speech(parse_pin("auto"), fleet)
    assert speech.find_obstacle(NEW_METHOD, Spoken(OWN)) is not None
    beat(store, clock, "c")
    assert speech.find_obstacle(NEW_METHOD, Spoken(OWN)) is None


@pytest.mark.parametrize(
    ("level", "caps"),
    [("", (OWN, OLD_RPC, OWN)), ("auto", (OLD_RPC, OLD_RPC, OLD_RPC)), (f"rpc-{OLDEST}", (OLDEST, OLDEST, OLDEST))],
)
def test_a_host_is_told_no_more_than_the_pin_and_its_agent_take(fleet: FleetVersions, level: str, caps: tuple[str, str, str]) -> None:
    speech = Speech(parse_pin(level), fleet)
    assert (speech.get_cap("a"), speech.get_cap("c"), speech.get_cap("never heard of")) == caps


@pytest.mark.parametrize(("said", "cap"), [("?", versions.NO_RPC_VERSION), ("2.0", "2.0"), ("1.99", OWN)])
def test_a_host_whose_version_is_odd_is_told_nothing_or_what_is_ours(store: Store, clock: FakeClock, said: str, cap: str) -> None:
    beat(store, clock, "a", said)
    assert Speech(fleet=FleetVersions(store, clock)).get_cap("a") == cap
    assert version_is_compatible(cap, OLDEST) == (cap == OWN)


class RunningApi:
    """An application under an automatic pin, of a release in which crash dumps are new."""

    def __init__(self, directory: Path, clock: FakeClock) -> None:
        self._clock = clock
        self._application = create_application(directory, clock=clock)
        self.store = self._application.store
        conf = load_config([], config_files=[])
        conf.set_override("compute_agent", "auto", group="upgrade_levels")
        app = create_app(conf, store=self.store, clock=clock)
        self._client = testing.TestClient(app, headers={"Host": "127.0.0.1"})

    def tell_all(self, rpc_version: str, *, of: str | None = None) -> None:
        """From now on the agents of this major version speak this, or that of one host."""
        with self.store.write() as c:
            if of is None:
                c.exec_driver_sql("UPDATE agents SET rpc_version = ? WHERE rpc_version <> '0.9'", (rpc_version,))
            else:
                c.exec_driver_sql("UPDATE agents SET rpc_version = ? WHERE host = ?", (rpc_version, of))

    def trigger(self) -> Any:
        """Ask for a crash dump, a second later."""
        self._clock.advance(1)
        return self._client.simulate_post(f"/v1/servers/{RUNNING}/actions", json={"kind": "trigger_crash_dump", "force": True})

    def count_actions(self) -> int:
        with self.store.read() as c:
            return int(c.exec_driver_sql("SELECT count(*) FROM actions").scalar_one())

    def close(self) -> None:
        self._application.close()


@pytest.fixture
def api(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningApi]:
    planted = RpcVersion("1.99", ("trigger_crash_dump",), "planted")
    monkeypatch.setattr(versions, "RPC_HISTORY", (planted, *versions.RPC_HISTORY))
    monkeypatch.setattr(versions, "RPC_API_VERSION", planted.number)
    api = RunningApi(tmp_path, clock)
    api.tell_all(planted.number)
    yield api
    api.close()


def test_a_running_api_follows_agents_that_come_and_go(api: RunningApi, clock: FakeClock) -> None:
    assert api.trigger().status_code == 202, "an agent of another major version holds nobody back"
    for rpc_version, status in ((OWN, 400), ("1.99", 202), ("1.98", 400)):
        beat(api.store, clock, "late", rpc_version)
        assert api.trigger().status_code == status
    with api.store.write() as c:
        agents.forget_host(c, "late", now=clock.now())
    assert api.trigger().status_code == 202


def test_what_is_refused_was_not_written(api: RunningApi, clock: FakeClock) -> None:
    beat(api.store, clock, "late", OWN)
    before = api.count_actions()
    message = api.trigger().json["badRequest"]["message"]
    assert message.startswith(f"Some agent speaks no more than RPC version {OWN}, so none is told this: trigger_crash_dump needs 1.99.")
    api.tell_all(OWN, of=HOST)
    message = api.trigger().json["badRequest"]["message"]
    assert message.startswith(f"The agent on {HOST} (release {versions.RELEASE}) does not support this: trigger_crash_dump needs")
    assert api.count_actions() == before
