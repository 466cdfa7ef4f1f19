"""Versions are data with their history, in one place, and a model that changes needs a new one."""

import ast
import configparser
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from compute_agent.contract import versions
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.notifications import HEARTBEAT_TYPE
from tests.contract import schemas

ROOT = Path(__file__).parents[2]

FOREIGN_VERSIONS = (
    ("compute_agent/contract/notifications.py", r"2\.0", "oslo.messaging's notification envelope"),
    ("compute_agent/drivers/libvirt/redaction.py", r"1\.1", "the namespace of Nova's metadata"),
    ("api_gateway/microversion.py", r"2\.\d+", "the Compute API's microversions"),
    ("api_gateway/compute/", r"v?2\.\d+", "the Compute API's microversions"),
    ("api_gateway/openapi/", r"v?2\.\d+", "the Compute API's microversions"),
    ("api_gateway/openapi/document.py", r"3\.1\.0", "the OpenAPI specification's"),
    ("api_gateway/asyncapi/document.py", r"3\.0\.0|0\.3\.0", "the AsyncAPI specification's, and its AMQP binding's"),
    ("doc/examples/direct_control.py", r"1\.[02]", "what a caller who knows nothing of this file needs; test_direct_control_page compares"),
    ("devstack/api_client.py", r"2\.17", "the Compute API's microversions"),
    ("devstack/audit.py", r"2\.4\.1", "a library with a known weakness, which the audit must find"),
    ("devstack/rabbitmq.py", r"0\.6", "no version: a part of the memory"),
    ("devstack/releases.py", r"\d+\.\d+\.\d+", "past releases, with the commits that they are built from"),
)
"""Version numbers of other people's protocols, and of what is past: which file or folder may hold which, and what they are."""


def parse(number: str) -> tuple[int, int]:
    major, minor = number.split(".")
    return int(major), int(minor)


def find_gap(numbers: Sequence[str]) -> str | None:
    """The first number that is neither the next minor nor the next major after the one before it."""
    parsed = [parse(number) for number in numbers]
    for before, after, number in zip(parsed, parsed[1:], numbers[1:], strict=False):
        if after not in ((before[0], before[1] + 1), (before[0] + 1, 0)):
            return number
    return None


def list_version_literals(source: str) -> list[tuple[int, str]]:
    """Line and text of every string in ``source`` that is nothing but a version number."""
    if not re.search(r"""['"]v?\d+\.\d""", source):
        return []  # most have none, and to parse them all takes a second
    return [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"v?\d+\.\d+(\.\d+)?", node.value)
    ]


@pytest.mark.parametrize(
    "numbers", [[row.number for row in versions.RPC_HISTORY], [row.number for row in versions.EVENT_HISTORY], list(versions.RELEASES)]
)
def test_a_history_has_no_gaps(numbers: list[str]) -> None:
    assert find_gap(numbers) is None


@pytest.mark.parametrize(
    ("numbers", "gap"), [(["1.0", "1.2"], "1.2"), (["1.0", "1.0"], "1.0"), (["1.1", "2.1"], "2.1"), (["1.1", "2.0"], None)]
)
def test_a_gap_in_a_history_is_found(numbers: list[str], gap: str | None) -> None:
    assert find_gap(numbers) == gap


def test_histories_begin_with_their_first_version_and_give_reasons() -> None:
    assert versions.RPC_HISTORY[0].number == "1.0"
    assert versions.EVENT_HISTORY[0].number == "1.0"
    assert all(row.reason for row in versions.RPC_HISTORY)
    assert all(row.reason for row in versions.EVENT_HISTORY)


def test_the_newest_row_is_what_the_code_speaks() -> None:
    assert versions.RPC_HISTORY[-1].number == versions.RPC_API_VERSION
    assert versions.EVENT_HISTORY[-1].number == versions.EVENT_VERSION


def test_no_method_was_brought_twice() -> None:
    methods = [method for row in versions.RPC_HISTORY for method in row.methods]
    assert len(methods) == len(set(methods))


def test_a_method_that_nobody_brought_has_no_version() -> None:
    with pytest.raises(KeyError):
        versions.get_version_of_method("reboot_the_moon")


def test_every_type_of_event_was_brought_by_one_version() -> None:
    brought = [event_type for row in versions.EVENT_HISTORY for event_type in row.types]
    assert sorted(brought) == sorted((*EVENT_TYPES, HEARTBEAT_TYPE))
    assert versions.get_version_of_event_type("server.diagnostics") == "1.2"
    with pytest.raises(KeyError):
        versions.get_version_of_event_type("server.abducted")


def test_the_release_map_ends_with_this_release_and_what_it_speaks() -> None:
    assert next(reversed(versions.RELEASES)) == versions.RELEASE
    assert versions.RELEASES[versions.RELEASE] == versions.ReleaseVersions(rpc=versions.RPC_API_VERSION, event=versions.EVENT_VERSION)


def test_releases_speak_versions_of_the_history_and_never_step_back() -> None:
    rpc = [row.number for row in versions.RPC_HISTORY]
    event = [row.number for row in versions.EVENT_HISTORY]
    spoken = [(rpc.index(release.rpc), event.index(release.event)) for release in versions.RELEASES.values()]
    assert spoken == sorted(spoken)


def test_the_release_is_the_packages_major_and_minor() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions.VERSION)
    assert versions.VERSION.rpartition(".")[0] == versions.RELEASE


def test_the_package_takes_its_version_from_the_contract() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: compute_agent.contract.versions.VERSION"


def test_no_file_of_packaging_holds_this_version() -> None:
    for name in ("setup.cfg", "pyproject.toml"):
        # What is needed of another package may have the same number.
        assert not re.search(rf"(?<![\d.><=~]){re.escape(versions.VERSION)}(?![\d.])", (ROOT / name).read_text()), name


def test_the_changelog_begins_with_this_version() -> None:
    heading = next(line for line in (ROOT / "CHANGELOG.rst").read_text().splitlines() if re.match(r"\d+\.\d+\.\d+ ", line))
    assert heading.split()[0] == versions.VERSION


def list_sources(folder: Path) -> list[Path]:
    """Without what is hidden in it: environments, caches."""
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(source for path in shown for source in ([path] if path.suffix == ".py" else path.rglob("*.py")))


def is_foreign(name: str, literal: str) -> bool:
    return any(name.startswith(place) and re.fullmatch(pattern, literal) for place, pattern, _ in FOREIGN_VERSIONS)


def test_no_other_file_holds_a_version_number() -> None:
    found = []
    for folder in ("compute_agent", "api_gateway", "devstack", "doc"):
        for path in list_sources(ROOT / folder):
            name = str(path.relative_to(ROOT))
            if name == "compute_agent/contract/versions.py":
                continue
            literals = list_version_literals(path.read_text())
            found += [f"{name}:{line}: {text!r}" for line, text in literals if not is_foreign(name, text)]
    assert not found, "version numbers belong into compute_agent/contract/versions.py (or into FOREIGN_VERSIONS): " + "; ".join(found)


def test_a_version_number_in_code_is_found() -> None:
    assert list_version_literals("x = 1\ntarget = Target(version='1.0')\n") == [(2, "1.0")]


def test_no_model_changed_without_a_new_version() -> None:
    difference = schemas.find_difference(schemas.read_schemas(), schemas.hash_models())
    assert difference is None, difference


def test_a_changed_model_is_named_with_what_to_do() -> None:
    recorded = schemas.read_schemas()
    changed = schemas.hash_models()
    changed["event"]["ActionEnded"] = "another"
    difference = schemas.find_difference(recorded, changed)
    assert difference is not None
    for word in ("ActionEnded", "event version is still", "versions.py", "python -m tests.contract.regenerate"):
        assert word in difference


def test_a_changed_key_type_word_or_constraint_changes_the_hash_and_prose_does_not() -> None:
    class Before(schemas.WireModel):
        """One."""

        state: schemas.models.PowerState
        count: int = schemas.models.Field(ge=1)

    class Prose(Before):
        """Another."""

    class Constraint(Before):
        count: int = schemas.models.Field(ge=0)

    class Key(Before):
        more: str = ""

    class Retyped(Before):
        state: str  # type: ignore[assignment]

    before = schemas.hash_schema(Before)
    assert schemas.hash_schema(Prose) == before
    assert before not in {schemas.hash_schema(model) for model in (Constraint, Key, Retyped)}


def test_versions_that_were_recorded_are_all_in_the_history() -> None:
    recorded = schemas.read_schemas()
    assert list(recorded["rpc"]) == [row.number for row in versions.RPC_HISTORY]
    assert list(recorded["event"]) == [row.number for row in versions.EVENT_HISTORY]
