"""Rows are read as their dataclass would make them."""

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from api_gateway.store.columns import reader_of, values_of


@dataclass(frozen=True)
class Thing:
    id: str
    size: int | None = None


def test_a_row_is_read_as_its_class_would_make_it() -> None:
    thing = reader_of(Thing)(("a", 3))
    assert thing == Thing("a", 3)
    assert hash(thing) == hash(Thing("a", 3))
    assert replace(thing, size=4) == Thing("a", 4)
    assert values_of(thing) == {"id": "a", "size": 3}
    with pytest.raises(FrozenInstanceError):
        thing.size = 4  # type: ignore[misc]


@pytest.mark.parametrize("row", [("a",), ("a", 3, None)])
def test_a_row_of_other_columns_is_refused(row: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="argument 2"):
        reader_of(Thing)(row)
