"""Pages that are made from the code say what the code says."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("libvirt", reason="the driver page asks every driver, libvirt's too")

GENERATOR = Path(__file__).parents[2] / "doc" / "generate.py"


def test_the_generated_pages_are_up_to_date() -> None:
    """Otherwise run ``python doc/generate.py``."""
    spec = importlib.util.spec_from_file_location("generate", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.main(["--check"]) == 0
