"""What a black box keeps of a domain: nothing that lets anybody in, and a console's end that costs no wait."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.drivers.libvirt.domain_xml import MalformedDomain
from compute_agent.drivers.libvirt.inspection import find_console_log, read_tail
from compute_agent.drivers.libvirt.redaction import HIDDEN, redact_domain

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
OWN = "https://crashcart.dev/xmlns/server/1.0"
SECRET = "hunter2"


@pytest.mark.parametrize(
    "part",
    [
        f"<devices><graphics type='vnc' passwd='{SECRET}'/></devices>",
        f"<devices><disk><source protocol='https'><cookies><cookie name='a'>{SECRET}</cookie></cookies></source></disk></devices>",
        f"<devices><disk><source file='https://user:{SECRET}@host/x'/></disk></devices>",
        f"<devices><disk><source file='https://host/x?auth_token={SECRET}&amp;a=b'/></disk></devices>",
        f"<os><cmdline>ro root=/dev/vda rd.password={SECRET} quiet</cmdline></os>",
        f"<os><initarg>--login</initarg><initarg>{SECRET}</initarg></os>",
        f"<sysinfo type='fwcfg'><entry name='opt/com.coreos/config'>{SECRET}</entry></sysinfo>",
        f"<sysinfo type='smbios'><oemStrings><entry>io.systemd.credential:x={SECRET}</entry></oemStrings></sysinfo>",
        f"<metadata><x:app xmlns:x='urn:x'><x:any>{SECRET}</x:any></x:app></metadata>",
        f"<q:commandline xmlns:q='{QEMU}'><q:arg value='{SECRET}'/><q:env name='A' value='{SECRET}'/></q:commandline>",
    ],
)
def test_secrets_are_cut_out_wherever_operators_write(part: str) -> None:
    assert SECRET not in redact_domain(f"<domain type='kvm'><name>n</name>{part}</domain>")


def test_all_else_stays_as_it_was() -> None:
    xml = """<domain type="kvm"><name>web-1</name><os><cmdline>root=/dev/vda crashkernel=96M</cmdline></os>\
<devices><disk><auth username="u"><secret type="ceph" uuid="x" /></auth><source file="/v/disk" /></disk>\
<watchdog model="i6300esb" action="inject-nmi" /><panic model="isa" /><input type="keyboard" bus="ps2" /></devices></domain>"""
    assert redact_domain(xml) == xml


def test_what_is_known_of_the_servers_owner_stays() -> None:
    own = f"<c:server xmlns:c='{OWN}'><c:project>blue</c:project></c:server>"
    assert ">blue<" in redact_domain(f"<domain><metadata>{own}</metadata></domain>")


def test_hidden_values_show_that_something_was_there() -> None:
    assert HIDDEN in redact_domain(f"<domain><os><cmdline>a.secret={SECRET}</cmdline></os></domain>")


@given(st.text(max_size=80))
def test_any_text_is_redacted_or_refused(text: str) -> None:
    with suppress(MalformedDomain):
        redact_domain(text)


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        ("<serial type='file'><source path='/l/serial'/></serial>", "/l/serial"),
        ("<serial type='pty'><source path='/dev/pts/3'/><log file='/l/log'/></serial>", "/l/log"),
        ("<console type='pty'><log file='/l/console'/></console>", "/l/console"),
        ("<serial type='pty'><source path='/dev/pts/3'/></serial>", None),
        ("<serial type='file'><source path='relative'/></serial>", None),
        ("", None),
    ],
)
def test_a_consoles_log_is_found_in_the_xml(console: str, expected: str | None) -> None:
    assert find_console_log(f"<domain><devices>{console}</devices></domain>") == (None if expected is None else Path(expected))


def test_the_end_of_a_log_is_as_long_as_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0123456789")
    assert read_tail(log, 4) == b"6789"
    assert read_tail(log, 100) == b"0123456789"


def test_what_is_no_plain_file_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_tail(tmp_path / "fifo", 4) is None, "and it is not waited for"
    assert read_tail(tmp_path, 4) is None
    assert read_tail(tmp_path / "missing", 4) is None
