"""The records of a version are written once; only what no release has carried yet may be written anew."""

import json
from pathlib import Path

import pytest

from compute_agent.contract import versions
from tests.contract import event_schemas, golden, regenerate, schemas


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of this release in a place of their own."""
    monkeypatch.setattr(golden, "SAMPLES", tmp_path / "samples")
    monkeypatch.setattr(schemas, "SCHEMAS", tmp_path / "schemas.json")
    monkeypatch.setattr(event_schemas, "SCHEMAS", tmp_path / "event_schemas")
    assert regenerate.main([]) == 0
    return tmp_path


def tamper(records: Path) -> Path:
    """As if models and wire format had been others when they were recorded; returns one of the sample files."""
    recorded = json.loads((records / "schemas.json").read_text())
    recorded["event"][versions.EVENT_VERSION]["ActionEnded"] = "another"
    (records / "schemas.json").write_text(json.dumps(recorded))
    sample = records / "samples" / versions.RELEASE / "events" / "action.ended.json"
    sample.write_text("{}")
    return sample


def test_the_first_run_records_every_sample_and_every_model(records: Path) -> None:
    assert set(golden.read_samples(versions.RELEASE)) == set(golden.make_samples())
    assert schemas.find_difference(schemas.read_schemas(), schemas.hash_models()) is None


def test_what_is_recorded_is_left_alone(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = tamper(records)
    assert regenerate.main([]) == 1
    assert sample.read_text() == "{}"
    assert schemas.find_difference(schemas.read_schemas(), schemas.hash_models()) is not None
    told = capsys.readouterr().err
    assert "events/action.ended.json" in told
    assert f"event {versions.EVENT_VERSION}" in told


def test_better_words_of_a_published_schema_are_taken_and_another_meaning_is_not(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = records / "event_schemas" / versions.EVENT_VERSION
    for name, key in (("server.paused", "description"), ("server.resumed", "x-severity")):
        schema = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(event_schemas.format_schema({**schema, key: "critical"}))
    assert regenerate.main([]) == 1
    told = capsys.readouterr().err
    assert "server.resumed.json" in told
    assert "server.paused.json" not in told
    assert json.loads((folder / "server.paused.json").read_text()) == event_schemas.build_schemas()["server.paused"]


def test_what_was_never_released_may_be_written_anew(records: Path) -> None:
    sample = tamper(records)
    assert regenerate.main(["--unreleased"]) == 0
    assert sample.read_text() != "{}"
    assert schemas.find_difference(schemas.read_schemas(), schemas.hash_models()) is None
