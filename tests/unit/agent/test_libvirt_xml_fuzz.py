"""Every reader of a domain's XML, over a real domain with something wrong anywhere in it: read, or refused as malformed."""

import copy
from collections.abc import Callable
from contextlib import suppress
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.libvirt.domain_devices import parse_devices
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain, read_root
from compute_agent.drivers.libvirt.inspection import find_console_log
from compute_agent.drivers.libvirt.metadata import OWN_NAMESPACE, describe_domain
from compute_agent.drivers.libvirt.redaction import redact_domain
from compute_agent.drivers.libvirt.watchdog_mark import NAMESPACE, find_mark, join_live
from compute_agent.drivers.libvirt.watchdog_models import list_models_for, read_machine
from compute_agent.drivers.libvirt.watchdog_xml import find_alias, find_element, is_fixed, read_watchdogs, replace_watchdog
from tests.fuzzing import count_examples, spoil_bytes

XML = f"""<domain type='kvm' id='3'><name>web-1</name><uuid>7f1c2d3e-4b5a-4697-8876-655443322110</uuid>
<metadata><c:server xmlns:c='{OWN_NAMESPACE}'><c:name>web</c:name><c:project>demo</c:project><c:description>front</c:description>
<c:flavor name='small'><c:vcpus>2</c:vcpus><c:memory>512</c:memory><c:disk>20</c:disk></c:flavor>
<c:tags><c:tag>shop</c:tag></c:tags></c:server>
<m:live xmlns:m='{NAMESPACE}' run='host/3' said='reset' expiry_action='dump' leaving='ib700'/></metadata>
<memory unit='KiB'>524288</memory><vcpu placement='static' current='1'>2</vcpu><vcpus><vcpu id='0' enabled='yes'/></vcpus>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><initarg>secret=1</initarg></os>
<devices><disk type='file' device='disk'><source file='/v/disk.config'/><target dev='vda'/><alias name='virtio-disk0'/></disk>
<controller type='pci' index='0' model='pcie-root'/>
<interface type='bridge'><mac address='fa:16:3e:00:00:0a'/><target dev='tap1'/></interface>
<serial type='file'><source path='/var/log/web.log'/></serial><console type='pty'><log file='/var/log/console.log' append='on'/></console>
<graphics type='vnc' passwd='hush'/><watchdog model='itco' action='reset'/>
<watchdog model='i6300esb' action='reset'><alias name='watchdog0'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/></watchdog></devices></domain>"""
TEXTS = (
    "",
    "0",
    "-1",
    "99999999999999999999",
    "0x00",
    "zz",
    "'",
    '"]',
    "a" * 3000,
    "../x",
    "/../x",
    "\u202e",
    "٣",
    "\ufffe",
    "watchdog",
    "devices",
)
DEVICE = WatchdogDevice(model="i6300esb", expiry_action=ExpiryAction.PAUSE)


def read_watchdogs_fully(xml: str) -> None:
    domain = read_root(xml)
    found, element = read_watchdogs(domain), find_element(domain)
    join_live(found, find_mark(domain))
    list_models_for(read_machine(domain), found.others)
    if element is not None:
        find_alias(element)
        is_fixed(domain, element)


def replace_and_read_again(xml: str) -> None:
    assert read_watchdogs(read_root(replace_watchdog(xml, DEVICE))).managed is not None
    read_root(replace_watchdog(xml, None))


READERS: tuple[Callable[[str], object], ...] = (
    parse_devices,
    lambda xml: describe_domain(read_root(xml)),
    lambda xml: read_root(redact_domain(xml)),
    find_console_log,
    read_watchdogs_fully,
    replace_and_read_again,
)


@st.composite
def spoiled_domains(draw: st.DrawFn) -> str:
    """The domain with up to three elements left out, repeated, moved, renamed, or with other texts and values."""
    root = ElementTree.fromstring(XML)
    for _ in range(draw(st.integers(1, 3))):
        elements = list(root.iter())
        element, other = draw(st.sampled_from(elements)), draw(st.sampled_from(elements))
        change = draw(st.sampled_from(("drop", "move", "rename", "text", "value", "value", "value gone")))
        if change == "drop":
            _drop(root, element)
        elif change == "move":
            other.append(copy.deepcopy(element))
        elif change == "rename" and element is not root:
            element.tag = other.tag
        elif change == "text":
            element.text = draw(st.sampled_from(TEXTS))
        elif element.attrib:
            name = draw(st.sampled_from(sorted(element.attrib)))
            if change == "value":
                element.set(name, draw(st.sampled_from((*TEXTS, *(other.attrib.values())))))
            else:
                del element.attrib[name]
    return ElementTree.tostring(root, encoding="unicode")


def _drop(root: Element, element: Element) -> None:
    for parent in root.iter():
        if element in list(parent):
            parent.remove(element)
            return


@settings(max_examples=count_examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spoiled_domains() | spoil_bytes(XML.encode()).map(lambda raw: raw.decode(errors="replace")))
@example(XML.replace("bus='0x00'", "bus=''"))
def test_a_spoiled_domain_is_read_or_refused_by_every_reader(xml: str) -> None:
    for read in READERS:
        with suppress(MalformedDomain):
            read(xml)


@pytest.mark.parametrize(
    "xml",
    [
        "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]>"
        "<domain><name>&c;</name></domain>",
        "<!DOCTYPE d [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><domain><name>&a;</name></domain>",
        "<!DOCTYPE d [<!ENTITY % a SYSTEM 'http://127.0.0.1:9/x.dtd'>%a;]><domain/>",
        "<!DOCTYPE d SYSTEM 'http://127.0.0.1:9/x.dtd'><domain/>",
        "<a>" * 2_000,
    ],
    ids=["entities that grow", "a file", "an address by a parameter", "an address", "a depth"],
)
def test_no_reader_follows_what_a_document_type_promises(xml: str) -> None:
    for read in READERS:
        with pytest.raises(MalformedDomain):
            read(xml)


def test_a_domain_as_deep_as_libvirt_takes_it_is_read() -> None:
    """libxml2 goes 256 elements deep."""
    deep = "<domain><devices>" + "<disk>" * 250 + "</disk>" * 250 + "</devices></domain>"
    for read in READERS:
        read(deep)
