"""Column types and row conversion that are the same on SQLite, PostgreSQL and MariaDB."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import BigInteger, Column, Connection, Dialect, Insert, LargeBinary, Table, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from api_gateway.ascii_json import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


MARIADB = ("mysql", "mariadb")
"""As SQLAlchemy names it. Each database's own part of SQLAlchemy, which costs a start as much as all of our tables, is loaded where it is
used: only one of them is."""


class Moment(TypeDecorator[datetime]):
    """A point in time as integer microseconds since 1970 UTC: exact, ordered, and free of each database's own ideas of zones."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return _write_moment(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], int | None]:
        """The same without the two calls around it: an action has several moments, a page of servers thousands."""
        return _write_moment

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[int | None], datetime | None]:
        """As above."""
        return _read_moment


def _write_moment(value: datetime | None) -> int | None:
    return None if value is None else (value - _EPOCH) // _MICROSECOND


def _read_moment(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


class JsonText(TypeDecorator[dict[str, Any]]):
    """A JSON object as text: kept byte for byte, never reordered or retyped by a database's own JSON type."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """MariaDB's text is 64 KiB at most unless told otherwise."""
        if dialect.name not in MARIADB:
            return dialect.type_descriptor(Text())
        from sqlalchemy.dialects.mysql import MEDIUMTEXT

        return dialect.type_descriptor(MEDIUMTEXT())

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> str | None:
        return None if value is None else write_json(value).decode()

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], dict[str, Any] | None]:
        """As ``Moment``'s: a page of servers has thousands."""
        return _read_json


class Body(TypeDecorator[bytes]):
    """A message as it came; up to 16 MiB of it."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name not in MARIADB:
            return dialect.type_descriptor(LargeBinary(16 * 1024 * 1024 - 1))
        from sqlalchemy.dialects.mysql import MEDIUMBLOB

        return dialect.type_descriptor(MEDIUMBLOB())


class JsonMap(JsonText):
    """A JSON object that is always there: NULL, which rows of an older release have, is the empty one."""

    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> str | None:
        return super().process_bind_param(value or None, dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], dict[str, Any]]:
        """As above."""
        return _read_json_map


class Words(TypeDecorator[tuple[str, ...]]):
    """A few short texts in their order, as a JSON list; NULL is none."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return write_json(value).decode() if value else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], tuple[str, ...]]:
        """As above."""
        return _read_words


def _read_json(value: str | None) -> dict[str, Any] | None:
    return None if value is None else json.loads(value)


def _read_json_map(value: str | None) -> dict[str, Any]:
    return {} if value is None else json.loads(value)


def _read_words(value: str | None) -> tuple[str, ...]:
    return () if value is None else tuple(json.loads(value))


def columns_of(table: Table, row_class: type) -> list[Column[Any]]:
    """The table's columns in the order of the dataclass's fields, so that ``row_class(*row)`` reads a row, and :func:`reader_of` many."""
    return [table.c[field.name] for field in fields(row_class)]


def reader_of(row_class: type[Row]) -> Callable[[Sequence[Any]], Row]:
    """What does as ``row_class(*row)`` does, in half the time: ``__init__`` of a frozen dataclass sets its fields one by one.

    :param row_class: a dataclass without slots or ``__post_init__``
    """
    names = tuple(field.name for field in fields(row_class))

    def read(row: Sequence[Any]) -> Row:
        made = object.__new__(row_class)
        made.__dict__.update(zip(names, row, strict=True))
        return made

    return read


def values_of(row: Any) -> dict[str, Any]:
    """A dataclass row, without slots, as column values in the order of its fields; not deep, unlike ``dataclasses.asdict``."""
    return dict(vars(row))


def upsert(c: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row, or overwrite the named columns of the one that has its primary key. The one place that knows how databases spell it."""
    c.execute(_build_upsert(c.dialect.name, table, tuple(values)), values)


def upsert_several(c: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same for rows that name the same columns."""
    if rows:
        c.execute(_build_upsert(c.dialect.name, table, tuple(rows[0])), rows)


@cache
def _build_upsert(dialect: str, table: Table, names: tuple[str, ...]) -> Insert:
    """Made once for each set of columns, of which the code has a few: making a statement costs more than running it."""
    keys = [column.name for column in table.primary_key]
    if dialect in MARIADB:
        from sqlalchemy.dialects.mysql import insert as mysql_insert

        statement = mysql_insert(table)
        return statement.on_duplicate_key_update({name: statement.inserted[name] for name in names if name not in keys})
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    merge = insert(table)
    return merge.on_conflict_do_update(index_elements=keys, set_={name: merge.excluded[name] for name in names if name not in keys})
