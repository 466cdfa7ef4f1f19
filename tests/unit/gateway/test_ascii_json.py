"""Bodies are written by pydantic's writer: what any reader of JSON finds in them is what json would have written."""

import json
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_gateway.ascii_json import write_json

_ANY_TEXT = st.text(st.characters())  # halves of surrogate pairs as well
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_ANY_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(_VALUES)
def test_what_was_written_reads_as_if_json_had_written_it_and_is_ascii(value: Any) -> None:
    written = write_json(value)
    assert json.loads(written) == json.loads(json.dumps(value))
    assert written.isascii()


class Word(StrEnum):
    ONE = "one"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, None, True], "b": {}}, b'{"a":[1,2.5,null,true],"b":{}}'),
        ((Word.ONE, "é\n\u2028"), rb'["one","\u00e9\n\u2028"]'),
        ("half of \ud83d", rb'"half of \ud83d"'),
    ],
)
def test_it_is_written_without_spaces_and_on_one_line(value: Any, written: bytes) -> None:
    assert write_json(value) == written
