"""The dump of a firing, found by its name alone."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt.expiry_dumps import LibvirtExpiryDumps
from tests.unit.agent.test_libvirt_servers import OTHER, SERVER, FakeDomain, FakeLink

FIRED_AT = datetime(2026, 11, 21, 10, 46, 51, 900_000, tzinfo=UTC)


class NamedDomain(FakeDomain):
    def __init__(self, name: str, number: int | None) -> None:
        super().__init__(isActive=int(number is not None), ID=-1 if number is None else number)
        self._name = name

    def name(self) -> str:
        return self._name


def make_dump(directory: Path, number: int, name: str, begun: datetime, size: int = 5) -> Path:
    path = directory / f"{number}-{name}-{begun.astimezone():%Y-%m-%d-%H:%M:%S}"
    path.write_bytes(b"x" * size)
    os.utime(path, (begun.timestamp() + 1, begun.timestamp() + 1))
    return path


def find(
    directory: Path,
    name: str = "pc",
    number: int | None = 1,
    since: datetime = FIRED_AT,
    until: datetime | None = None,
    server: str = SERVER,
) -> tuple[str, int] | None:
    found = LibvirtExpiryDumps(FakeLink(NamedDomain(name, number)), directory).find_expiry_dump(server, since, until)
    return None if found is None else (found.path, found.size)


def test_the_newest_one_since_the_firing_is_found_although_its_name_has_whole_seconds_only(tmp_path: Path) -> None:
    make_dump(tmp_path, 1, "pc", FIRED_AT - timedelta(seconds=4))
    first = make_dump(tmp_path, 1, "pc", FIRED_AT.replace(microsecond=0))
    assert find(tmp_path) == (str(first), 5)
    newest = make_dump(tmp_path, 1, "pc", FIRED_AT + timedelta(seconds=8), size=7)
    assert find(tmp_path) == (str(newest), 7)
    assert find(tmp_path, since=FIRED_AT + timedelta(seconds=20)) is None


def test_one_that_was_begun_right_before_its_event_came_is_found(tmp_path: Path) -> None:
    """In the second before: an event takes its time on a busy host."""
    path = make_dump(tmp_path, 1, "pc", FIRED_AT.replace(second=50, microsecond=0))
    assert find(tmp_path, since=FIRED_AT.replace(microsecond=5_000)) == (str(path), 5)


def test_the_next_firings_one_is_left_to_that(tmp_path: Path) -> None:
    first = make_dump(tmp_path, 1, "pc", FIRED_AT.replace(microsecond=0))
    make_dump(tmp_path, 1, "pc", FIRED_AT + timedelta(seconds=2))
    assert find(tmp_path, until=FIRED_AT + timedelta(seconds=2)) == (str(first), 5)


def test_other_servers_other_runs_and_other_files_are_left_alone(tmp_path: Path) -> None:
    make_dump(tmp_path, 1, "pc-2", FIRED_AT)
    make_dump(tmp_path, 2, "pc", FIRED_AT)
    (tmp_path / "1-pc-2026-13-41-10:46:52").touch()
    (tmp_path / "1-pc-2026-11-21-10:46:52").mkdir()
    (tmp_path / "1-pc.core").touch()
    assert find(tmp_path) is None
    assert find(tmp_path, server=OTHER) is None


def test_of_a_server_that_is_off_again_the_run_is_not_known(tmp_path: Path) -> None:
    path = make_dump(tmp_path, 4, "pc", FIRED_AT)
    assert find(tmp_path, number=None) == (str(path), 5)


def test_a_long_name_is_cut_as_libvirt_cuts_it(tmp_path: Path) -> None:
    path = make_dump(tmp_path, 8, "a-name-of-more-than-", FIRED_AT)
    assert find(tmp_path, name="a-name-of-more-than-twenty-characters", number=8) == (str(path), 5)


def test_a_directory_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="nowhere"):
        find(tmp_path / "nowhere")
