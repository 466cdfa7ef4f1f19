"""A driver that cannot be used is refused at start, with what to do."""

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest
from oslo_config import cfg
from stevedore import ExtensionManager

from compute_agent.drivers.fake import FakeHypervisor
from compute_agent.drivers.loader import NAMESPACE, DriverNotLoaded, load_driver
from tests.fakes import FakeClock


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([])
    return conf


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make entry points known as if their packages were installed."""

    def install(**targets: str) -> None:
        entry_points = [EntryPoint(name, target, NAMESPACE) for name, target in targets.items()]
        monkeypatch.setitem(ExtensionManager.ENTRY_POINT_CACHE, NAMESPACE, entry_points)

    return install


def make_no_driver(conf: cfg.ConfigOpts, clock: FakeClock) -> str:
    return "no driver"


def refuse_configuration(conf: cfg.ConfigOpts, clock: FakeClock) -> FakeHypervisor:
    raise ValueError("too little")


def test_the_fake_driver_is_installed_and_loads_by_its_name(conf: cfg.ConfigOpts) -> None:
    driver = load_driver("fake", conf, FakeClock())
    assert driver.name == "fake"
    assert len(driver.servers.list_servers()) == 2


def test_a_wrong_name_is_refused_naming_what_is_installed(conf: cfg.ConfigOpts) -> None:
    with pytest.raises(DriverNotLoaded, match=r"'fkae'; installed: .*fake.*libvirt"):
        load_driver("fkae", conf, FakeClock())


def test_a_missing_library_is_refused_at_start(conf: cfg.ConfigOpts, install: Callable[..., None]) -> None:
    install(broken="no_such_library.driver:create_driver")
    with pytest.raises(DriverNotLoaded, match="no_such_library"):
        load_driver("broken", conf, FakeClock())


def test_two_drivers_of_one_name_are_refused(conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [EntryPoint("twin", "compute_agent.drivers.fake:create_driver", NAMESPACE)] * 2
    monkeypatch.setitem(ExtensionManager.ENTRY_POINT_CACHE, NAMESPACE, twice)
    with pytest.raises(DriverNotLoaded, match="more than one"):
        load_driver("twin", conf, FakeClock())


def test_a_configuration_that_a_driver_refuses_is_said(conf: cfg.ConfigOpts, install: Callable[..., None]) -> None:
    install(strict=f"{__name__}:refuse_configuration")
    with pytest.raises(DriverNotLoaded, match="refuses its configuration: too little"):
        load_driver("strict", conf, FakeClock())


def test_what_makes_no_driver_is_refused(conf: cfg.ConfigOpts, install: Callable[..., None]) -> None:
    install(odd=f"{__name__}:make_no_driver")
    with pytest.raises(DriverNotLoaded, match="not a Driver"):
        load_driver("odd", conf, FakeClock())
