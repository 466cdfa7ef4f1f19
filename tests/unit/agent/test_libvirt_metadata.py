"""What a domain's XML says of its server."""

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compute_agent.drivers.libvirt.metadata import DomainDescription, MalformedDomain, parse_domain

OWN = "https://crashcart.dev/xmlns/server/1.0"
OWN_METADATA = (
    f"<metadata><c:server xmlns:c='{OWN}'><c:name>db-1</c:name><c:project>blue</c:project><c:user>ann</c:user></c:server></metadata>"
)


def make_nova_metadata(version: str = "1.1", name: str = "web-1", project: str = "p-uuid", user: str = "u-uuid") -> str:
    return f"""<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/{version}">
      <nova:package version="31.0.0"/><nova:name>{escape(name)}</nova:name>
      <nova:owner><nova:user uuid={quoteattr(user)}>admin</nova:user>
        <nova:project uuid={quoteattr(project)}>demo</nova:project></nova:owner>
    </nova:instance></metadata>"""


def make_domain(metadata: str = "", memory: str = "<memory unit='KiB'>131072</memory>", vcpu: str = "<vcpu>2</vcpu>") -> str:
    return f"<domain type='kvm' id='3'><name>instance-0001</name>{metadata}{memory}{vcpu}<devices/></domain>"


def test_own_metadata_says_whose_server_it_is() -> None:
    assert parse_domain(make_domain(OWN_METADATA)) == DomainDescription("db-1", "blue", "ann", 2, 128, None)


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


TAGS = st.sampled_from(["metadata", f"{{{OWN}}}server", "vcpu", "memory", "name", "{http://openstack.org/xmlns/libvirt/nova/1.1}instance"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


def write_element(tag: str, text: str, children: list[str]) -> str:
    namespace, brace, name = tag[1:].rpartition("}") if tag.startswith("{") else ("", "", tag)
    opening = f"<{name} xmlns='{namespace}'" if brace else f"<{name} xmlns=''"
    return f"{opening} unit={quoteattr(text)} current={quoteattr(text)} uuid={quoteattr(text)}>{escape(text)}{''.join(children)}</{name}>"


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
    for word in (seen.name, seen.project, seen.user):
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
