"""Domain XML, libvirt's statistics and QEMU's block statistics as a reading: whatever is missing, new or odd costs itself only."""

import json
import string
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.sax.saxutils import quoteattr

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_agent.contract.models import PowerState
from compute_agent.drivers.libvirt.domain_devices import DomainDevices, DomainDisk, DomainNic, parse_devices
from compute_agent.drivers.libvirt.domain_stats import DomainCounters, parse_counters, parse_failed_requests
from compute_agent.drivers.libvirt.domain_xml import MalformedDomain
from compute_agent.drivers.libvirt.reading import Occasion, join_reading
from compute_agent.drivers.models import CollectedDiagnostics, DiskCounters, NicCounters

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
OCCASION = Occasion("6f4c1c2e-0f6c-4f6e-9d0e-000000000001", NOW, 100.0, NOW - timedelta(hours=1), "Debian")
XML = """<domain type='kvm'>
  <memory unit='MiB'>512</memory><vcpu current='2'>4</vcpu>
  <devices>
    <disk type='file' device='disk'><source file='/v/disk'/><target dev='vda'/><alias name='virtio-disk0'/></disk>
    <disk type='file' device='cdrom'><target dev='hda'/><alias name='ide0-0-0'/></disk>
    <disk type='network' device='cdrom'><source protocol='rbd' name='vms/6f_disk.config'/><target dev='hdb'/></disk>
    <interface type='bridge'><mac address='FA:16:3E:00:00:0A'/><target dev='tap1'/></interface>
    <interface type='user'><mac address='fa:16:3e:00:00:0b'/></interface>
    <interface type='hostdev'><mac address='not a mac'/></interface>
  </devices>
</domain>"""
RECORD: dict[str, Any] = {
    "state.state": libvirt.VIR_DOMAIN_RUNNING,
    "state.reason": 1,
    "balloon.current": 524288,
    "balloon.maximum": 524288,
    "balloon.available": 500000,
    "balloon.unused": 200000,
    "balloon.last-update": int(NOW.timestamp()) - 3,
    "balloon.rss": 400000,
    "vcpu.current": 2,
    "vcpu.0.state": 1,
    "vcpu.0.time": 5_000_000_000,
    "vcpu.1.state": 1,
    "vcpu.1.time": 7_000_000_000,
    "net.count": 3,
    "net.0.name": "tap1",
    "net.0.rx.bytes": 1,
    "net.0.rx.pkts": 2,
    "net.0.rx.errs": 3,
    "net.0.rx.drop": 4,
    "net.0.tx.bytes": 5,
    "net.0.tx.pkts": 6,
    "net.0.tx.errs": 7,
    "net.0.tx.drop": 8,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.rd.reqs": 10,
    "block.0.rd.bytes": 11,
    "block.0.wr.reqs": 12,
    "block.0.wr.bytes": 13,
    "block.1.name": "hda",
}


def read(record: dict[str, Any] | None = None, xml: str | None = XML, **failed: int) -> CollectedDiagnostics:
    """``failed`` by alias, with underscores for dashes."""
    devices = None if xml is None else parse_devices(xml)
    requests = {alias.replace("_", "-"): count for alias, count in failed.items()}
    return join_reading(OCCASION, parse_counters(RECORD if record is None else record), devices, requests, {})


def make_reply(*entries: Any) -> str:
    return json.dumps({"return": list(entries), "id": "libvirt-1"})


class TestDevices:
    def test_all_that_the_xml_names_is_read_in_its_order(self) -> None:
        assert parse_devices(XML) == DomainDevices(
            hypervisor="kvm",
            cpus=(0, 1),
            memory_kib=512 * 1024,
            nics=(DomainNic("tap1", "fa:16:3e:00:00:0a"), DomainNic(None, "fa:16:3e:00:00:0b"), DomainNic(None, None)),
            disks=(DomainDisk("vda", "virtio-disk0"), DomainDisk("hda", "ide0-0-0"), DomainDisk("hdb", None)),
            has_config_drive=True,
        )

    @pytest.mark.parametrize("source", ["file='/i/6f/disk.config'", "dev='/dev/vg/6f_disk.config'", "name='vms/6f_disk.config'"])
    def test_novas_config_drive_is_known_by_its_name_wherever_it_lies(self, source: str) -> None:
        disk = f"<disk device='cdrom'><source {source}/><target dev='sda'/></disk>"
        assert parse_devices(f"<domain><devices>{disk}</devices></domain>").has_config_drive

    def test_another_image_is_no_config_drive(self) -> None:
        disk = "<disk><source file='/i/6f/disk.configured'/><target dev='sda'/></disk>"
        assert not parse_devices(f"<domain><devices>{disk}</devices></domain>").has_config_drive

    def test_gaps_between_processors_are_seen(self) -> None:
        vcpus = "<vcpus><vcpu id='0' enabled='yes'/><vcpu id='1' enabled='no'/><vcpu id='2' enabled='yes'/></vcpus>"
        assert parse_devices(f"<domain><vcpu current='2'>3</vcpu>{vcpus}</domain>").cpus == (0, 2)

    def test_an_absurd_number_of_processors_makes_no_list(self) -> None:
        assert parse_devices("<domain><vcpu>999999999999</vcpu></domain>").cpus == ()

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["disk", "interface", "hostdev"]),
                st.lists(
                    st.tuples(st.sampled_from(["target", "mac", "alias", "source"]), st.text(string.printable, max_size=20)), max_size=4
                ),
            ),
            max_size=6,
        ),
    )
    def test_odd_devices_break_nothing(self, devices: list[tuple[str, list[tuple[str, str]]]]) -> None:
        xml = ""
        for tag, children in devices:
            parts = ""
            for child, text in children:
                value = quoteattr("".join(c for c in text if c.isprintable()))
                parts += f"<{child} dev={value} address={value} name={value} file={value}/>"
            xml += f"<{tag}>{parts}</{tag}>"
        found = parse_devices(f"<domain><devices>{xml}</devices></domain>")
        assert len(found.disks) == sum(tag == "disk" for tag, _ in devices)
        assert len(found.nics) == sum(tag == "interface" for tag, _ in devices)

    @given(st.text(max_size=60))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with suppress(MalformedDomain):
            parse_devices(text)


class TestReading:
    def test_each_counter_comes_to_its_device(self) -> None:
        reading = read(virtio_disk0=2)
        assert (reading.power_state, reading.hypervisor, reading.hypervisor_os) == (PowerState.RUNNING, "kvm", "Debian")
        assert (reading.driver_word, reading.config_drive, reading.started_at) == ("libvirt", True, OCCASION.started_at)
        assert reading.cpu_times == {0: 5_000_000_000, 1: 7_000_000_000}
        assert (reading.memory_maximum_kib, reading.memory_used_kib) == (512 * 1024, 300000)
        assert list(reading.nics) == [
            NicCounters("tap1", "fa:16:3e:00:00:0a", 1, 2, 3, 4, 5, 6, 7, 8),
            NicCounters(None, "fa:16:3e:00:00:0b"),
            NicCounters(),
        ]
        assert list(reading.disks) == [DiskCounters("vda", 11, 10, 13, 12, 2), DiskCounters("hda"), DiskCounters("hdb")]

    def test_what_has_no_counters_is_said(self) -> None:
        assert read().errors == {
            "nics": "libvirt has no counters of fa:16:3e:00:00:0b, ?",
            "disks": "libvirt has no counters of hda, hdb",
        }

    def test_a_server_that_is_off_is_read_from_its_xml_alone(self) -> None:
        reading = read({"state.state": libvirt.VIR_DOMAIN_SHUTOFF, "state.reason": 2})
        assert (reading.power_state, reading.started_at, dict(reading.errors)) == (PowerState.SHUTDOWN, None, {})
        assert (reading.cpu_times, reading.memory_maximum_kib, reading.memory_used_kib) == ({0: None, 1: None}, 512 * 1024, None)
        assert [nic.mac for nic in reading.nics] == ["fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b", None]

    def test_without_readable_xml_there_is_what_was_counted(self) -> None:
        reading = read(xml=None)
        assert [nic.device for nic in reading.nics] == ["tap1"]
        assert [disk.device for disk in reading.disks] == ["vda", "hda"]
        assert reading.memory_maximum_kib == 512 * 1024

    def test_a_device_that_came_after_the_count_has_no_counters_and_one_that_went_is_gone(self) -> None:
        xml = XML.replace("tap1", "tap2")
        nic = read(xml=xml).nics[0]
        assert nic == NicCounters("tap2", "fa:16:3e:00:00:0a")

    def test_of_a_disks_layers_the_top_one_counts(self) -> None:
        record = RECORD | {"block.2.name": "vda", "block.2.rd.reqs": 99, "block.10.name": "vda", "block.10.rd.reqs": 98}
        assert read(record).disks[0].read_requests == 10

    @pytest.mark.parametrize("missing", ["balloon.available", "balloon.unused"])
    def test_memory_used_is_null_when_the_guest_does_not_tell(self, missing: str) -> None:
        reading = read({key: value for key, value in RECORD.items() if key != missing})
        assert reading.memory_used_kib is None
        assert "balloon" in reading.errors["memory"]

    def test_the_last_words_of_a_driver_that_is_gone_are_not_what_is_used_now(self) -> None:
        record = RECORD | {"balloon.last-update": int(NOW.timestamp()) - 3600}
        assert read(record).memory_used_kib is None
        assert "3600 s" in read(record).errors["memory"]
        paused = record | {"state.state": libvirt.VIR_DOMAIN_PAUSED}
        assert read(paused).memory_used_kib == 300000, "while it stands still nothing changes"

    @pytest.mark.parametrize("unknown", [-1, 2**64 - 1, "7", None, True, 1.5])
    def test_an_unknown_counter_is_null_and_costs_no_other(self, unknown: object) -> None:
        record = RECORD | {"net.0.rx.bytes": unknown, "vcpu.0.time": unknown, "block.0.rd.reqs": unknown}
        reading = read(record)
        assert (reading.nics[0].rx_octets, reading.nics[0].rx_packets) == (None, 2)
        assert reading.cpu_times == {0: None, 1: 7_000_000_000}
        assert (reading.disks[0].read_requests, reading.disks[0].read_bytes) == (None, 11)

    def test_a_busy_domain_is_recognised_by_what_qemu_was_not_asked(self) -> None:
        asked = parse_counters(RECORD)
        not_asked = {key for key in RECORD if key.startswith(("block.0.rd", "block.0.wr")) or key == "balloon.rss"}
        busy = parse_counters({key: value for key, value in RECORD.items() if key not in not_asked})
        assert (asked.is_partial, busy.is_partial) == (False, True)
        assert not parse_counters({"balloon.rss": 1}).is_partial, "a domain without disks"

    def test_the_older_format_has_libvirts_names_and_leaves_out_what_is_not_known(self) -> None:
        free_form = read({key: value for key, value in RECORD.items() if key not in ("vcpu.1.time", "net.0.tx.drop")}).free_form
        assert free_form == {
            "cpu0_time": 5_000_000_000,
            "memory": 524288,
            "memory-actual": 524288,
            "memory-available": 500000,
            "memory-unused": 200000,
            "memory-last_update": int(NOW.timestamp()) - 3,
            "memory-rss": 400000,
            "vda_read_req": 10,
            "vda_read": 11,
            "vda_write_req": 12,
            "vda_write": 13,
            "vda_errors": -1,
            "tap1_rx": 1,
            "tap1_rx_packets": 2,
            "tap1_rx_errors": 3,
            "tap1_rx_drop": 4,
            "tap1_tx": 5,
            "tap1_tx_packets": 6,
            "tap1_tx_errors": 7,
        }
        assert read(virtio_disk0=3).free_form["vda_errors"] == 3

    @given(
        st.dictionaries(
            st.sampled_from([*RECORD, "net.1.name", "block.7.name", "vcpu.9.time", "balloon.", "vcpu.x.time", "perf.cmt", "block.0.", ""])
            | st.text(max_size=20),
            st.one_of(st.integers(), st.text(max_size=12), st.booleans(), st.none(), st.floats()),
            max_size=30,
        ),
        st.sampled_from([XML, None]),
    )
    def test_any_record_gives_a_reading_whose_numbers_count(self, record: dict[str, Any], xml: str | None) -> None:
        reading = read(record, xml)
        counts = [*reading.cpu_times.values(), reading.memory_maximum_kib, reading.memory_used_kib, *reading.free_form.values()]
        for device in [*reading.nics, *reading.disks]:
            counts += [value for word, value in vars(device).items() if word not in ("device", "mac")]
        assert all(count is None or (isinstance(count, int) and count >= -1) for count in counts)
        assert xml is None or (len(reading.nics), len(reading.disks)) == (3, 3)


class TestFailedRequests:
    def test_they_are_summed_by_alias_wherever_qemu_names_it(self) -> None:
        stats = {"failed_rd_operations": 1, "failed_wr_operations": 2, "failed_flush_operations": 4, "invalid_rd_operations": 8}
        reply = make_reply(
            {"device": "", "qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "stats": stats},
            {"device": "", "qdev": "ide0-0-0", "stats": {"failed_rd_operations": 0}},
            {"device": "drive-scsi0-0-0-0", "stats": {"failed_unmap_operations": 16}},
        )
        aliases = ["virtio-disk0", "ide0-0-0", "scsi0-0-0-0", "virtio-disk1"]
        assert parse_failed_requests(reply, aliases) == {"virtio-disk0": 7, "ide0-0-0": 0, "scsi0-0-0-0": 16}

    def test_what_qemu_does_not_count_is_unknown(self) -> None:
        reply = make_reply(
            {"qdev": "a", "stats": {"rd_bytes": 1, "failed_rd_operations": -1}}, {"qdev": "b"}, "odd", {"qdev": 1, "stats": {}}
        )
        assert parse_failed_requests(reply, ["a", "b"]) == {}

    @pytest.mark.parametrize("reply", ["", "no json", "[]", '{"error": {}}', '{"return": {}}'])
    def test_another_answer_is_refused(self, reply: str) -> None:
        with pytest.raises(ValueError):
            parse_failed_requests(reply, ["a"])

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["return", "stats", "qdev", "device", "failed_rd_operations"]), inner, max_size=5)
            ),
            max_leaves=12,
        )
    )
    def test_any_answer_is_read_or_refused(self, body: Any) -> None:
        try:
            counts = parse_failed_requests(json.dumps({"return": body}), ["a", ""])
        except ValueError:
            return
        assert all(count >= 0 for count in counts.values())


def test_nothing_counted_is_no_reading_of_zeros() -> None:
    assert parse_counters({}) == DomainCounters()
