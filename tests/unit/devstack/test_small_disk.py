"""A disk that is full and is not."""

import errno
from pathlib import Path

import pytest

from devstack.small_disk import SmallDisk, list_mounts
from devstack.steps import StepFailed

needs_mounts = pytest.mark.skipif(not SmallDisk.is_available(), reason="needs the right to mount")


@needs_mounts
def test_a_full_disk_refuses_what_is_written_until_it_is_freed(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 1 << 20) as disk:
        (disk.directory / "before").write_bytes(b"x" * 10_000)
        disk.fill()
        with pytest.raises(OSError) as full:
            (disk.directory / "more").write_bytes(b"x" * 10_000)
        assert full.value.errno == errno.ENOSPC
        assert (disk.directory / "before").stat().st_size == 10_000
        disk.free()
        (disk.directory / "more").write_bytes(b"x" * 10_000)
        disk.fill(leave=100_000)
        (disk.directory / "still").write_bytes(b"x" * 50_000)
    assert list_mounts(tmp_path) == []
    assert list((tmp_path / "disk").iterdir()) == []


@needs_mounts
def test_a_disk_does_not_hide_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StepFailed, match="not empty"):
        SmallDisk(tmp_path, 1 << 20).mount()


@needs_mounts
def test_a_disk_is_found_again_by_a_later_command_even_in_a_strange_directory(tmp_path: Path) -> None:
    SmallDisk(tmp_path / "a bc ä", 1 << 20).mount()
    again = SmallDisk(tmp_path / "a bc ä", 1 << 20)
    assert again.is_mounted
    again.mount()
    again.unmount()
    assert not again.is_mounted


def test_who_may_not_mount_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallDisk, "is_available", staticmethod(lambda: False))
    with pytest.raises(StepFailed, match="only be made by root"):
        SmallDisk(tmp_path / "disk", 1 << 20).mount()
