"""Pages that are made from the code say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

from compute_agent.contract.events import EVENT_TYPES

for library in ("libvirt", "pyghmi", "sushy"):
    pytest.importorskip(library, reason="the driver page asks every driver and every protocol")

GENERATOR = Path(__file__).parents[2] / "doc" / "generate.py"


def test_the_generated_pages_are_up_to_date() -> None:
    """Otherwise run ``python doc/generate.py``."""
    spec = importlib.util.spec_from_file_location("generate", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.main(["--check"]) == 0


def test_the_page_about_events_has_every_type_with_its_severity() -> None:
    page = (GENERATOR.parent / "events.rst").read_text()
    rows = re.findall(r"^``([a-z_.]+)`` +(info|warn|error) ", page, re.MULTILINE)
    told = {name: str(event_type.severity) for name, event_type in EVENT_TYPES.items()}
    assert dict(rows) == told, 'doc/events.rst, table "Which there are"'
