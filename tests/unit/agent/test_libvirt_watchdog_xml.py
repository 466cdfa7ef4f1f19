"""Watchdogs in the XML of domains that anybody may have written: read without surprise, replaced without touching anything else."""

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain, read_root
from compute_agent.drivers.libvirt.watchdog_mark import Mark, find_mark, join_live
from compute_agent.drivers.libvirt.watchdog_models import MODELS, Machine, list_models_for
from compute_agent.drivers.libvirt.watchdog_xml import FoundWatchdogs, read_watchdogs, replace_watchdog

DEVICE = WatchdogDevice(model="i6300esb", expiry_action="pause")
OUTSIDE = [
    "<metadata><n:x xmlns:n='urn:n'><watchdog model='ib700'/></n:x></metadata>",
    "<qemu:commandline xmlns:qemu='urn:q'><qemu:arg value='a&amp;b &lt; \"c\"'/></qemu:commandline>",
    "<title>Größe &#x1F600; > </title>",
    "<!-- <watchdog model='i6300esb'/> -->",
    "<description><![CDATA[</devices><watchdog/>]]></description>",
]
INSIDE = [
    "<panic model='isa'/>",
    "<graphics type='vnc' passwd='s&quot;>&lt;t'/>",
    "<watchdog model='i6300esb' action='reset'><address type='pci' slot='0x04'/></watchdog>",
    "<watchdog model='i6300esb'/>",
    "<watchdog model=\"ib700\" action='dump'></watchdog>",
    "<watchdog model='diag288' action='poweroff'/>",
    "<watchdog model='itco' action='reset'><alias name='ua-x'/></watchdog>",
    "<watchdog action='none'/>",
    "<watchdog model='Ünknown &amp; long' action='EXPLODE'/>",
    "<disk><watchdog model='i6300esb'/></disk>",
    "<x:watchdog xmlns:x='urn:x' model='ib700'/>",
    "\n  ",
]


@st.composite
def domains(draw: st.DrawFn) -> str:
    outside, inside = draw(st.lists(st.sampled_from(OUTSIDE), max_size=3)), draw(st.lists(st.sampled_from(INSIDE), max_size=5))
    position = draw(st.integers(0, len(outside)))
    return f"<domain type='kvm'>{''.join(outside[:position])}<devices>{''.join(inside)}</devices>{''.join(outside[position:])}</domain>"


@settings(max_examples=50)
@given(
    domains(), st.one_of(st.none(), st.builds(WatchdogDevice, model=st.sampled_from(["i6300esb", "ib700"]), expiry_action=st.just("none")))
)
def test_after_a_replacement_it_has_this_one_and_everything_else_is_as_it_was(xml: str, device: WatchdogDevice | None) -> None:
    before, replaced = read_watchdogs(read_root(xml)), replace_watchdog(xml, device)
    after = read_watchdogs(read_root(replaced))
    # Where there were several, the next one comes to light; such a domain is refused before.
    several = [other for other in before.others if other.model in ("i6300esb", "ib700")]
    assert after.managed == (device if device is not None or not several else several[0])
    assert len(after.others) == len(before.others) - (1 if device is None and several else 0)
    assert strip(replaced) == strip(xml)
    assert replace_watchdog(replaced, device) == replaced or several


def strip(xml: str) -> str:
    """The XML without the watchdogs of its devices."""
    root = ElementTree.fromstring(xml)
    devices = root.find("devices")
    assert devices is not None
    tails = "".join((element.tail or "") for element in devices.findall("watchdog"))
    for element in devices.findall("watchdog"):
        devices.remove(element)
    # The long form: whether what is left of them is nothing or a line's end makes no difference then.
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False).replace("\n  ", "") + tails.replace("\n  ", "")


@settings(max_examples=50)
@given(domains())
def test_the_managed_one_is_found_among_all_that_there_are(xml: str) -> None:
    found = read_watchdogs(read_root(xml))
    elements = read_root(xml).findall("devices/watchdog")
    assert len(found.others) + (found.managed is not None) == len(elements)
    assert (found.managed is None) == all(element.get("model") not in ("i6300esb", "ib700") for element in elements)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("<watchdog model='i6300esb'/>", FoundWatchdogs(WatchdogDevice(model="i6300esb", expiry_action="reset"))),
        ("<watchdog model='diag288'/>", FoundWatchdogs(None, (WatchdogDevice(model="diag288", expiry_action="reset"),))),
        ("<watchdog/>", FoundWatchdogs(None, (WatchdogDevice(model="unknown", expiry_action="reset"),))),
        ("<watchdog model='X' action='Y Z'/>", FoundWatchdogs(None, (WatchdogDevice(model="unknown", expiry_action="unknown"),))),
    ],
)
def test_what_is_omitted_or_odd_has_a_word(element: str, expected: FoundWatchdogs) -> None:
    assert read_watchdogs(read_root(f"<domain><devices>{element}</devices></domain>")) == expected


def test_a_device_of_the_same_model_keeps_its_address_and_one_of_another_model_gets_its_own() -> None:
    xml = "<domain><devices><watchdog model='i6300esb' action='reset'><address slot='0x04'/></watchdog></devices></domain>"
    assert '<address slot="0x04" />' in replace_watchdog(xml, DEVICE)
    assert "address" not in replace_watchdog(xml, WatchdogDevice(model="ib700", expiry_action="reset"))


@pytest.mark.parametrize(
    "xml", ["<domain/>", "<domain><devices/></domain>", "<network/>", "<domain><devices></domain>", "<!DOCTYPE a><domain/>"]
)
def test_what_is_no_whole_domain_is_not_changed(xml: str) -> None:
    with pytest.raises(MalformedDomain):
        replace_watchdog(xml, DEVICE)


@pytest.mark.parametrize(
    "note",
    ["<c:live xmlns:c='{}' leaving='A B'/>", "<c:live xmlns:c='{}' expiry_action='A B'/>", "<c:live xmlns:c='{}' leaving='i6300esb:'/>"],
)
def test_a_note_that_somebody_else_wrote_is_none(note: str) -> None:
    xml = f"<domain><metadata>{note.format('https://crashcart.dev/xmlns/watchdog/1.0')}</metadata></domain>"
    assert find_mark(read_root(xml)) is None


def test_a_note_of_an_action_is_not_taken_for_that_of_a_device_with_another_word() -> None:
    """The device was replaced meanwhile, by another tool say."""
    mark = Mark("host/1", said="reset", expiry_action="pause")
    live = join_live(FoundWatchdogs(WatchdogDevice(model="i6300esb", expiry_action="none")), mark)
    assert live.device == WatchdogDevice(model="i6300esb", expiry_action="none")


@pytest.mark.parametrize(
    ("machine", "models"),
    [
        (Machine("kvm", "x86_64", "pc-i440fx-rhel7.6.0"), ("i6300esb", "ib700")),
        (Machine("qemu", "x86_64", "pc-q35-7.2"), ("i6300esb", "ib700")),
        (Machine("kvm", "i686", "pc"), ("i6300esb", "ib700")),
        (Machine("kvm", "ppc64le", "pseries-7.2"), ("i6300esb",)),
        (Machine("kvm", "aarch64", "virt-7.2"), ("i6300esb",)),
        (Machine("kvm", "x86_64", "microvm"), ()),
        (Machine("kvm", "x86_64", "isapc"), ()),
        (Machine("kvm", "s390x", "s390-ccw-virtio-7.2"), ()),
        (Machine("lxc", "x86_64", ""), ()),
        (Machine("test", "", ""), ()),
    ],
)
def test_models_are_those_that_the_machine_has_a_place_for(machine: Machine, models: tuple[str, ...]) -> None:
    assert list_models_for(machine, ()) == models
    assert set(models) <= {model.model for model in MODELS if model.managed}
