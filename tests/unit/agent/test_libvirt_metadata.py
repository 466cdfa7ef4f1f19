"""What a domain's XML says of its server."""

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compute_agent.contract.models import Flavor
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain, read_root
from compute_agent.drivers.libvirt.metadata import DomainDescription, describe_domain

OWN = "https://crashcart.dev/xmlns/server/1.0"
OWN_METADATA = (
    f"<metadata><c:server xmlns:c='{OWN}'><c:name>db-1</c:name><c:project>blue</c:project><c:user>ann</c:user></c:server></metadata>"
)


NOVA_FLAVOR = """<nova:flavor name="m1.small"><nova:memory>512</nova:memory><nova:disk>20</nova:disk><nova:swap>0</nova:swap>
    <nova:ephemeral>10</nova:ephemeral><nova:vcpus>4</nova:vcpus></nova:flavor>"""


def parse_domain(xml: str) -> DomainDescription:
    return describe_domain(read_root(xml))


def make_own_metadata(inside: str) -> str:
    return f"<metadata><server xmlns='{OWN}'>{inside}</server></metadata>"


def make_nova_metadata(version: str = "1.1", name: str = "web-1", project: str = "p-uuid", user: str = "u-uuid") -> str:
    return f"""<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/{version}">
      <nova:package version="31.0.0"/><nova:name>{escape(name)}</nova:name>{NOVA_FLAVOR}
      <nova:owner><nova:user uuid={quoteattr(user)}>admin</nova:user>
        <nova:project uuid={quoteattr(project)}>demo</nova:project></nova:owner>
    </nova:instance></metadata>"""


def make_domain(metadata: str = "", memory: str = "<memory unit='KiB'>131072</memory>", vcpu: str = "<vcpu>2</vcpu>") -> str:
    return f"<domain type='kvm' id='3'><name>instance-0001</name>{metadata}{memory}{vcpu}<devices/></domain>"


def test_own_metadata_says_whose_server_it_is() -> None:
    assert parse_domain(make_domain(OWN_METADATA)) == DomainDescription("db-1", "blue", "ann", 2, 128)


@pytest.mark.parametrize(("text", "wanted"), [("yes", True), ("no", False), ("perhaps", None), ("", None)])
def test_an_operators_word_on_host_dumps_after_a_panic_is_read_from_our_own_element(text: str, wanted: bool | None) -> None:
    own = make_own_metadata(f"<host_dump_after_panic>{text}</host_dump_after_panic>")
    assert parse_domain(make_domain(own)).host_dump_after_panic is wanted


@pytest.mark.parametrize("version", ["1.0", "1.1", "2.0"])
def test_nova_metadata_of_any_version_names_project_and_user_by_id(version: str) -> None:
    seen = parse_domain(make_domain(make_nova_metadata(version)))
    assert (seen.name, seen.project, seen.user, seen.foreign_owner) == ("web-1", "p-uuid", "u-uuid", "nova")


def test_nova_goes_before_crashcarts_own_element() -> None:
    """What an operator wrote by hand must not move a server of Nova's to another project."""
    both = OWN_METADATA.replace("</metadata>", "") + make_nova_metadata().replace("<metadata>", "")
    seen = parse_domain(make_domain(both))
    assert (seen.project, seen.foreign_owner) == ("p-uuid", "nova")


def test_a_domain_without_metadata_has_no_owner() -> None:
    assert parse_domain(make_domain()) == DomainDescription(vcpus=2, memory_mib=128)


def test_another_tools_metadata_is_not_taken_for_ours() -> None:
    foreign = make_domain(OWN_METADATA.replace(OWN, "https://example.org/other"))
    assert parse_domain(foreign).project is None


def test_nova_says_what_a_server_was_ordered_as() -> None:
    """The domain has 2 CPUs and 128 MiB now: what is plugged in is not what was ordered."""
    seen = parse_domain(make_domain(make_nova_metadata()))
    assert seen.flavor == Flavor(name="m1.small", vcpus=4, ram_mib=512, disk_gib=20, ephemeral_gib=10, swap_mib=0)
    assert (seen.vcpus, seen.memory_mib) == (2, 128)


def test_own_metadata_says_flavor_description_and_tags() -> None:
    flavor = "<flavor name='big'><memory>2048</memory><vcpus>8</vcpus><disk>5</disk><ephemeral>1</ephemeral><swap>64</swap></flavor>"
    rest = "<description>the shop's\n database</description><tags><tag>shop</tag><tag>a/b</tag><tag>blue</tag><tag/></tags>"
    seen = parse_domain(make_domain(make_own_metadata(flavor + rest)))
    assert seen.flavor == Flavor(name="big", vcpus=8, ram_mib=2048, disk_gib=5, ephemeral_gib=1, swap_mib=64)
    assert (seen.description, seen.tags) == ("the shop's database", ("blue", "shop"))


def test_sizes_that_a_flavor_does_not_say_are_the_domains() -> None:
    seen = parse_domain(make_domain(make_own_metadata("<flavor name='small'/>")))
    assert seen.flavor == Flavor(name="small", vcpus=2, ram_mib=128)


@pytest.mark.parametrize(
    "flavor", ["<flavor/>", "<flavor name=' '/>", "<flavor name='a'><disk>99999999999</disk></flavor>", "<flavor><vcpus>1</vcpus></flavor>"]
)
def test_a_flavor_without_a_name_or_of_no_size_is_none(flavor: str) -> None:
    assert parse_domain(make_domain(make_own_metadata(flavor))).flavor is None


def test_a_flavor_of_a_domain_that_says_no_sizes_is_none() -> None:
    metadata = make_own_metadata("<flavor name='a'/>")
    assert parse_domain(f"<domain>{metadata}</domain>").flavor is None


def test_libvirts_own_description_is_taken_when_the_metadata_has_none() -> None:
    titled = "<description>from virsh desc</description>"
    assert parse_domain(make_domain(titled)).description == "from virsh desc"
    assert parse_domain(make_domain(titled + make_own_metadata("<description>ours</description>"))).description == "ours"


def test_description_and_tags_of_a_server_of_novas_are_read_from_our_element() -> None:
    """Nova's metadata has no word for them, so that nothing of Nova's is overruled."""
    ours = make_own_metadata("<description>d</description><tags><tag>t</tag></tags><project>mine</project><flavor name='mine'/>")
    seen = parse_domain(make_domain(ours.replace("</metadata>", "") + make_nova_metadata().replace("<metadata>", "")))
    assert (seen.description, seen.tags) == ("d", ("t",))
    assert (seen.project, seen.flavor and seen.flavor.name) == ("p-uuid", "m1.small")


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("<memory unit='KiB'>131072</memory>", 128),
        ("<memory>131072</memory>", 128),
        ("<memory unit='GiB'>2</memory>", 2048),
        ("<memory unit='bytes'>1048576</memory>", 1),
        ("<memory unit='parsecs'>1</memory>", None),
        ("<memory unit='KiB'>much</memory>", None),
        ("<memory unit='KiB'>-5</memory>", None),
        ("<memory unit='KiB'>٣</memory>", None),
        ("<memory/>", None),
        ("", None),
    ],
)
def test_memory_is_in_mib_whatever_its_unit(memory: str, expected: int | None) -> None:
    assert parse_domain(make_domain(memory=memory)).memory_mib == expected


@pytest.mark.parametrize(
    ("vcpu", "expected"), [("<vcpu>4</vcpu>", 4), ("<vcpu current='2'>4</vcpu>", 2), ("<vcpu>0</vcpu>", None), ("", None)]
)
def test_vcpus_are_those_plugged_in_now(vcpu: str, expected: int | None) -> None:
    assert parse_domain(make_domain(vcpu=vcpu)).vcpus == expected


def test_texts_become_one_line_of_bounded_length() -> None:
    """A name goes into log lines: it must not be able to forge one."""
    seen = parse_domain(make_domain(make_nova_metadata(name="  a\n\tb\u2028c " + "x" * 999)))
    assert seen.name is not None
    assert seen.name.startswith("a b c xxx")
    assert len(seen.name) == 255


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain",
        "<network/>",
        "<!DOCTYPE domain><domain/>",
        "<!DOCTYPE domain [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>",
        "<!DOCTYPE domain [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><domain><metadata>&a;</metadata></domain>",
        "<domain>\x00</domain>",
    ],
)
def test_what_is_no_plain_domain_is_refused(xml: str) -> None:
    with pytest.raises(MalformedDomain):
        parse_domain(xml)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_domain(text)
    except MalformedDomain:
        pass


TAGS = st.sampled_from(
    [
        "metadata",
        f"{{{OWN}}}server",
        f"{{{OWN}}}flavor",
        f"{{{OWN}}}tags",
        f"{{{OWN}}}tag",
        "vcpu",
        "memory",
        "name",
        "{http://openstack.org/xmlns/libvirt/nova/1.1}instance",
    ]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


def write_element(tag: str, text: str, children: list[str]) -> str:
    namespace, brace, name = tag[1:].rpartition("}") if tag.startswith("{") else ("", "", tag)
    opening = f"<{name} xmlns='{namespace}'" if brace else f"<{name} xmlns=''"
    attributes = " ".join(f"{word}={quoteattr(text)}" for word in ("name", "unit", "current", "uuid"))
    return f"{opening} {attributes}>{escape(text)}{''.join(children)}</{name}>"


ELEMENTS = st.recursive(
    st.builds(write_element, TAGS, TEXTS, st.just([])),
    lambda inner: st.builds(write_element, TAGS, TEXTS, st.lists(inner, max_size=4)),
    max_leaves=12,
)


@given(st.lists(ELEMENTS, max_size=5))
@example([write_element("metadata", "", [write_element("{http://openstack.org/xmlns/libvirt/nova/1.1}instance", "", [])])])
def test_an_odd_domain_is_described_without_an_error(children: list[str]) -> None:
    """libvirt checks that metadata is well-formed and nothing else: elements may be anywhere and hold anything."""
    seen = parse_domain(f"<domain>{''.join(children)}</domain>")
    for word in (seen.name, seen.project, seen.user, seen.description):
        assert word is None or (word.isprintable() and word == word.strip() and len(word) <= 255)
    for count in (seen.vcpus, seen.memory_mib):
        assert count is None or count >= 0


@given(name=TEXTS, project=TEXTS)
def test_what_was_written_is_read(name: str, project: str) -> None:
    metadata = f"<metadata><server xmlns='{OWN}'><name>{escape(name)}</name><project>{escape(project)}</project></server></metadata>"
    seen = parse_domain(make_domain(metadata))
    if name.isprintable() and name == " ".join(name.split()):
        assert seen.name == (name or None)
    if project.isprintable() and project == " ".join(project.split()):
        assert seen.project == (project or None)
