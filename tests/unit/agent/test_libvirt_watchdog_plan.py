"""How a running machine comes by the watchdog that is wanted, where its own stays until the machine stops."""

from xml.etree import ElementTree

import pytest

from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.libvirt.watchdog_live import Step, plan_change
from compute_agent.drivers.libvirt.watchdog_mark import LiveWatchdog
from compute_agent.drivers.libvirt.watchdog_xml import find_element, is_fixed

RESET, PAUSE, DUMP = (WatchdogDevice(model="i6300esb", expiry_action=action) for action in ("reset", "pause", "dump"))
CARD = "<watchdog model='i6300esb' action='reset'><address type='pci' domain='0x0000' bus='0x0a' slot='0x03' function='0x0'/></watchdog>"


@pytest.mark.parametrize(
    ("controller", "fixed"),
    [
        ("<controller type='pci' index='10' model='pci-root'/>", False),
        ("<controller type='pci' index='10' model='pci-root'><target hotplug='off'/></controller>", True),
        ("<controller type='pci' index='10' model='pcie-root'/>", True),
        ("<controller type='pci' index='10' model='pcie-to-pci-bridge'/><controller type='pci' index='0' model='pcie-root'/>", False),
        ("<controller type='usb' index='10' model='none'/>", False),
    ],
)
def test_a_card_is_fixed_where_nothing_on_its_bus_can_be_unplugged(controller: str, fixed: bool) -> None:
    domain = ElementTree.fromstring(f"<domain><devices>{controller}{CARD}</devices></domain>")
    element = find_element(domain)
    assert element is not None
    assert is_fixed(domain, element) is fixed


def test_a_device_without_a_place_on_a_pci_bus_is_not_fixed_by_one() -> None:
    domain = ElementTree.fromstring("<domain><devices><watchdog model='ib700'/></devices></domain>")
    element = find_element(domain)
    assert element is not None
    assert not is_fixed(domain, element)


@pytest.mark.parametrize(
    ("wanted", "step"), [(None, Step.NEXT_START), (DUMP, Step.NEXT_START), (PAUSE, Step.SET_ACTION), (RESET, Step.NOTHING)]
)
def test_a_fixed_device_is_taken_away_or_replaced_at_the_next_start(wanted: WatchdogDevice | None, step: Step) -> None:
    assert plan_change(LiveWatchdog(RESET, (), said="reset", is_fixed=True), wanted) is step
