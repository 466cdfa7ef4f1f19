"""Runs the YAML cases of ``tests/http/gabbits``: one file is one sequence of requests over one fleet."""

import unittest
from pathlib import Path

import pytest
from gabbi import handlers, suitemaker, utils

import tests.http
from tests.http import fixtures

CASES = Path(tests.http.__file__).parent / "gabbits"


@pytest.mark.parametrize("file", sorted(CASES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_request_of_the_file_is_answered_as_it_says(file: Path) -> None:
    suite = suitemaker.test_suite_from_dict(
        unittest.TestLoader(),
        file.stem,
        utils.load_yaml(yaml_file=str(file)),
        str(CASES),
        "127.0.0.1",
        8780,
        fixtures,
        lambda: fixtures.answer,
        handlers=[handler() for handler in handlers.RESPONSE_HANDLERS],
    )
    result = unittest.TestResult()

    suite.run(result)

    wrong = [f"{case}: {trace.strip().splitlines()[-1]}" for case, trace in result.failures + result.errors]
    assert not wrong, "\n".join(wrong)
    assert not result.skipped
    assert result.testsRun > 0
