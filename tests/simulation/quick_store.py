"""The production store for worlds of which thousands are run: its own statements over real SQLite, without what SQLAlchemy adds to each.

SQLAlchemy compiles every statement, once for all worlds of a process, and says how its values are converted. A statement that comes a
second time is then run by ``sqlite3`` itself, over one kept connection; what comes once is SQLAlchemy's as ever.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Executable, Row, create_engine
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.pool import NullPool

from api_gateway.store import Store
from api_gateway.store.engine import _set_up_sqlite

_Values = Mapping[str, Any]
_opened: list[sqlite3.Connection] = []
_ENGINE = create_engine("sqlite://", poolclass=NullPool, creator=_opened.pop, hide_parameters=True)
"""For all stores of this process, so that each statement is compiled once."""
_LIST = re.compile(r"\(__\[POSTCOMPILE_[^\]]*\]\)")
"""How SQLAlchemy marks where a list of values goes."""


class _Statement:
    """One, as SQLAlchemy compiled it for parameters of these names.

    :raises NotQuick: it needs more than text and values.
    """

    def __init__(self, statement: Executable, names: Sequence[str] | None, *, many: bool) -> None:
        compiled: Any = statement.compile(dialect=_ENGINE.dialect, column_keys=names, for_executemany=many)  # type: ignore[attr-defined]
        prefetched = (compiled.isinsert and compiled.insert_prefetch) or (compiled.isupdate and compiled.update_prefetch)
        if compiled.literal_execute_params or prefetched or compiled.positiontup is None:
            raise NotQuick(str(compiled))
        self._texts = _LIST.split(str(compiled))
        converters = compiled._bind_processors
        binds = [compiled.binds[name] for name in compiled.positiontup]
        self._values = [
            (bind.key, bind.required, bind.effective_value, converters.get(name), bind in compiled.post_compile_params)
            for name, bind in zip(compiled.positiontup, binds, strict=True)
        ]
        self.has_rows = bool(compiled._result_columns)
        self.metadata = SimpleResultMetaData([column.keyname for column in compiled._result_columns])
        self._key_to_index = self.metadata._key_to_index
        readers = [column.type._cached_result_processor(_ENGINE.dialect, None) for column in compiled._result_columns]
        self._readers = readers if any(readers) else None

    def bind(self, values: _Values) -> tuple[str, list[Any]]:
        """The text and what its question marks stand for.

        :raises LookupError: a value is missing, or a list is empty.
        """
        bound: list[Any] = []
        text, *rest = self._texts
        for key, required, value, convert, is_list in self._values:
            if required or key in values:
                value = values[key]
            if is_list:
                text += f"({', '.join('?' * len(value))}){rest.pop(0)}"
                bound += value if convert is None else map(convert, value)
                value[0]
            else:
                bound.append(value if convert is None else convert(value))
        return text, bound

    def read(self, rows: list[Any]) -> list[Row[Any]]:
        metadata, readers, key_to_index = self.metadata, self._readers, self._key_to_index
        return [Row(metadata, readers, key_to_index, row) for row in rows]


class NotQuick(Exception):
    """Only SQLAlchemy can run it."""


class _Result:
    """Rows that were read at once, with what the store asks of SQLAlchemy's results."""

    def __init__(self, statement: _Statement, rows: list[Row[Any]], rowcount: int) -> None:
        self._statement = statement
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Row[Any]]:
        return iter(self._rows)

    def all(self) -> list[Row[Any]]:
        return self._rows

    def first(self) -> Row[Any] | None:
        return self._rows[0] if self._rows else None

    def one_or_none(self) -> Row[Any] | None:
        return self._rows[0] if len(self._rows) == 1 else self._whole().one_or_none()

    def scalar_one_or_none(self) -> Any:
        return self._rows[0][0] if len(self._rows) == 1 else self._whole().scalar_one_or_none()

    def scalar_one(self) -> Any:
        return self._rows[0][0] if len(self._rows) == 1 else self._whole().scalar_one()

    def _whole(self) -> IteratorResult[Any]:
        return IteratorResult(self._statement.metadata, iter(self._rows))

    def __getattr__(self, name: str) -> Any:
        """All else is SQLAlchemy's own."""
        return getattr(self._whole(), name)


class _QuickConnection:
    """What the functions of the store take for a ``sqlalchemy.Connection``."""

    _statements: ClassVar["WeakKeyDictionary[Executable, dict[tuple[Any, ...], _Statement | None]]"] = WeakKeyDictionary()

    def __init__(self, thorough: Connection, raw: sqlite3.Connection) -> None:
        self.dialect = thorough.dialect
        self.exec_driver_sql = thorough.exec_driver_sql
        self.connection = raw
        self._thorough = thorough
        self._raw = raw

    def execute(self, statement: Executable, values: _Values | Sequence[_Values] | None = None) -> Any:
        known = self._find(statement, values)
        if known is None:
            return self._thorough.execute(statement, values)
        try:
            if isinstance(values, (list, tuple)):
                bound = [known.bind(each) for each in values]
                cursor = self._raw.executemany(bound[0][0], [each for _, each in bound])
            else:
                cursor = self._raw.execute(*known.bind(cast(_Values, values) or {}))
            return _Result(known, known.read(cursor.fetchall()) if known.has_rows else [], cursor.rowcount)
        except (sqlite3.Error, LookupError):
            return self._thorough.execute(statement, values)  # to raise what the production code knows

    def _find(self, statement: Executable, values: _Values | Sequence[_Values] | None) -> _Statement | None:
        """None: for the first time, as all that is made for one occasion, or not to be run like that."""
        shapes = self._statements.get(statement)
        if shapes is None:
            self._statements[statement] = {}
            return None
        many = isinstance(values, (list, tuple))
        first = cast(_Values, (values[0] if many and values else None if many else values) or {})  # type: ignore[index]
        shape = (many, *first)
        if shape not in shapes:
            try:
                shapes[shape] = _Statement(statement, list(first) or None, many=many)
            except NotQuick:
                shapes[shape] = None
        return shapes[shape]


class QuickStore(Store):
    """The production store over one connection: nothing in a simulated world waits inside a transaction."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._quick: _QuickConnection | None = None
        self._thorough: Connection | None = None
        self._is_busy = False

    def _connect(self) -> _QuickConnection:
        if self._quick is None:
            raw = sqlite3.connect(str(self._path), timeout=1.0)
            _set_up_sqlite(raw, None)
            _opened.append(raw)
            self._thorough = _ENGINE.connect()
            self._quick = _QuickConnection(self._thorough, raw)
        return self._quick

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """As there; what is read inside another transaction has a connection of its own."""
        if self._is_busy:
            with super().read() as c:
                yield c
            return
        with self._transaction("BEGIN") as (c, _):
            yield c

    @contextmanager
    def write(self, *, begins_later: bool = False) -> Iterator[Connection]:
        """As there."""
        if self._is_busy:
            raise RuntimeError("a write transaction inside a transaction of the same thread")
        with self._transaction("BEGIN IMMEDIATE") as (c, commit):
            yield c
            commit()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[tuple[Connection, Callable[[], object]]]:
        quick = self._connect()
        raw = quick._raw
        self._is_busy = True
        try:
            with self._translated_errors():
                raw.execute(begin)
                yield cast(Connection, quick), raw.commit
        finally:
            self._is_busy = False
            if raw.in_transaction:
                raw.rollback()

    def dispose(self) -> None:
        if self._thorough is not None:
            self._thorough.close()
            self._thorough = self._quick = None
        super().dispose()
