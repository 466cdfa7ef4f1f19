"""Values that nobody would send, and real ones with something wrong anywhere in them: for tests that read what strangers wrote.

Each run tries a few, ``devstack/test --all`` many.
"""

import copy
import os
from typing import Any

from hypothesis import strategies as st

_MORE = 20 if os.environ.get("CRASHCART_TEST_ALL") else 1

WORDS = (
    "2026-03-01T12:30:00Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "nan",
    "-1",
    "true",
    "../../etc/passwd",
    "a\x00b",
    "\ud800",
    "\u202e\n\x1b[31m",
    "٣",
)
NUMBERS = (-1, 0, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0, float("nan"), float("inf"))

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(NUMBERS) | st.text(st.characters(), max_size=12) | st.sampled_from(WORDS),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


def count_examples(usual: int) -> int:
    """``max_examples`` of a test that costs little with ``usual`` of them."""
    return usual * _MORE


@st.composite
def spoil_json(draw: st.DrawFn, sample: Any, *, most: int = 3) -> Any:
    """The sample with up to ``most`` things changed at any depth: a value replaced, left out, wrapped, repeated or put elsewhere."""
    spoiled = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, most))):
        places = list(_list_places(spoiled))
        if not places:
            return draw(ANYTHING)
        parent, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("replace", "replace", "leave out", "wrap", "repeat", "elsewhere")))
        if change == "replace":
            parent[key] = draw(ANYTHING)
        elif change == "leave out":
            del parent[key]
        elif change == "wrap":
            parent[key] = draw(st.sampled_from(([parent[key]], {"x": parent[key]}, str(parent[key]))))
        elif change == "repeat":
            parent[key] = [copy.deepcopy(parent[key])] * draw(st.integers(2, 40))
        else:
            other, other_key = draw(st.sampled_from(places))
            parent[key] = copy.deepcopy(other[other_key])
    return spoiled


@st.composite
def spoil_bytes(draw: st.DrawFn, sample: bytes, *, most: int = 3) -> bytes:
    """The sample with up to ``most`` places overwritten, cut out, cut off or repeated."""
    spoiled = bytearray(sample)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(spoiled)))
        end = min(len(spoiled), start + draw(st.sampled_from((0, 1, 1, 2, 8, 64, 4096))))
        change = draw(st.sampled_from(("overwrite", "cut off", "repeat")))
        if change == "overwrite":
            spoiled[start:end] = draw(st.binary(max_size=6) | st.sampled_from((b'"', b"\\", b"{", b"]", b"<", b"&", b"\x00", b"\xff", b"")))
        elif change == "cut off":
            del spoiled[start:]
        else:
            spoiled[start:end] = spoiled[start:end] * 3
    return bytes(spoiled)


def _list_places(value: Any) -> Any:
    """(container, key) of everything inside of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield value, key
        yield from _list_places(child)
