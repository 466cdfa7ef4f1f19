"""Statements that are asked for so often that what SQLAlchemy does around each execution counts: several times what the database does.

They are written with SQLAlchemy as all others are, and made into the database's text once; from there on the driver is asked directly.
PostgreSQL is told several of them, with the transaction's beginning or end, in one message there and back.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, Dialect, Double, Insert, Select, String, any_, bindparam
from sqlalchemy.types import TypeEngine

from api_gateway.store.backends import begins_by_word, raising_as_sqlalchemy

_Values = Mapping[str, Any]
_Row = Sequence[Any]
_Convert = Callable[[Any], Any]


class Prepared:
    """A statement that is always the same but for its values, each of which it has a name for.

    :param names: of an insert: the columns that it fills
    """

    def __init__(self, statement: Select[Any] | Insert, names: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._names = names
        self._texts: dict[str, _Text] = {}

    def get_text(self, dialect: Dialect) -> "_Text":
        text = self._texts.get(dialect.name)
        if text is None:
            text = self._texts[dialect.name] = _Text(self._statement, self._names, dialect)
        return text


IsOneOf = Callable[[ColumnElement[str]], ColumnElement[bool]]
"""Says of a column of texts that it has one of the values."""
_Build = Callable[[IsOneOf], Select[Any]]


class PreparedForMany:
    """The same with one list of texts, of any length but zero.

    PostgreSQL takes the list as one array: of a hundred parameters it makes a plan that reads all rows of a table and compares each with
    each, as long as these are few thousands. The others' parameters are 1, 2, 4, 8, …, so that there are few statements; those that are too
    many repeat the last value.
    """

    def __init__(self, build: _Build) -> None:
        with_array = Prepared(build(lambda column: column == any_(bindparam(_ARRAY, type_=ARRAY(String)))))
        self._of_width = cache(lambda width: _PreparedForWidth(build, width, with_array))

    def fit(self, many: Sequence[str]) -> tuple[Prepared, dict[str, Any]]:
        """The statement for so many, and their names."""
        width = 1 << (len(many) - 1).bit_length()
        values = (*many, *(many[-1],) * (width - len(many)))
        return self._of_width(width), {_ARRAY: list(many), **dict(zip(_name_many(width), values, strict=True))}


class _PreparedForWidth(Prepared):
    """For a list of one length; ``with_array`` is PostgreSQL's, for a list of any."""

    def __init__(self, build: _Build, width: int, with_array: Prepared) -> None:
        super().__init__(build(lambda column: column.in_([bindparam(name) for name in _name_many(width)])))
        self._with_array = with_array

    def get_text(self, dialect: Dialect) -> "_Text":
        return self._with_array.get_text(dialect) if dialect.name == "postgresql" else super().get_text(dialect)


_ARRAY = "all_of_many"


@cache
def _name_many(width: int) -> tuple[str, ...]:
    return tuple(f"one_of_many_{number}" for number in range(width))


class _Text:
    """One statement in the words of one kind of database."""

    def __init__(self, statement: Select[Any] | Insert, names: Sequence[str] | None, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=names)
        self.text = str(compiled)
        fixed = compiled.construct_params(_check=False)
        self._is_positional = compiled.positiontup is not None
        self._values = [
            (name, fixed[name], _implement(compiled.binds[name].type, dialect).bind_processor(dialect))
            for name in (compiled.positiontup if self._is_positional else fixed)
        ]
        self._names = [name for name, _, _ in self._values]
        columns = statement.selected_columns if isinstance(statement, Select) else ()
        readers = [_find_reader(column.type, dialect) for column in columns]
        self._readers = [(place, reader) for place, reader in enumerate(readers) if reader is not None]

    def bind(self, values: _Values) -> Any:
        """What the driver takes for them, converted as their columns want it."""
        bound = [values.get(name, fixed) if convert is None else convert(values.get(name, fixed)) for name, fixed, convert in self._values]
        return bound if self._is_positional else dict(zip(self._names, bound, strict=True))

    def read(self, rows: Sequence[_Row]) -> list[_Row]:
        if not self._readers:
            return list(rows)
        read: list[_Row] = []
        for row in rows:
            values = list(row)
            for place, reader in self._readers:
                values[place] = reader(values[place])
            read.append(values)
        return read


def _find_reader(kind: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    """None: the column's value is what the driver gives, as a float is: SQLAlchemy would have to know the driver's own type to say so."""
    return None if isinstance(kind, Double) else _implement(kind, dialect).result_processor(dialect, None)


def _implement(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return kind.dialect_impl(dialect)


def ask(c: Connection, question: Prepared, values: _Values) -> list[_Row]:
    """Its rows."""
    text = question.get_text(c.dialect)
    with raising_as_sqlalchemy(c):
        cursor = c.connection.cursor()
        cursor.execute(text.text, text.bind(values))
        return text.read(cursor.fetchall())


def begin_and_ask(c: Connection, *questions: tuple[Prepared, _Values]) -> list[list[_Row]]:
    """The rows of each, in a transaction that was made with ``write(begins_later=True)``."""
    texts = [(prepared.get_text(c.dialect), values) for prepared, values in questions]
    cursors = []
    with raising_as_sqlalchemy(c):
        with _one_message(c) as message:
            if message is not None:
                _add_word(c, "BEGIN")
            for text, values in texts:
                cursor = c.connection.cursor()
                cursor.execute(text.text, text.bind(values))
                cursors.append(cursor)
        return [text.read(cursor.fetchall()) for (text, _), cursor in zip(texts, cursors, strict=True)]


def write(c: Connection, statement: Prepared, rows: Sequence[_Values]) -> None:
    """For each of the rows."""
    with raising_as_sqlalchemy(c):
        _write(c, statement, rows)


def write_and_commit(c: Connection, statement: Prepared, rows: Sequence[_Values]) -> None:
    """The same as the transaction's last statement: nothing may follow it."""
    with raising_as_sqlalchemy(c), _one_message(c) as message:
        _write(c, statement, rows)
        if message is not None:
            _add_word(c, "COMMIT")


def _write(c: Connection, statement: Prepared, rows: Sequence[_Values]) -> None:
    text = statement.get_text(c.dialect)
    c.connection.cursor().executemany(text.text, [text.bind(row) for row in rows])


def _one_message(c: Connection) -> AbstractContextManager[Any]:
    """What is asked in the block goes out together, and its answers are there at the end; None where the driver cannot do that."""
    if not begins_by_word(c.dialect):
        return nullcontext()
    connection: Any = c.connection.driver_connection
    pipeline: AbstractContextManager[Any] = connection.pipeline()
    return pipeline


def _add_word(c: Connection, word: str) -> None:
    """To the message of :func:`_one_message`."""
    connection: Any = c.connection.driver_connection
    connection.execute(word, prepare=False)
