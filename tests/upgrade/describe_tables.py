"""Prints which tables the code of a release uses, as JSON; run by that release's own interpreter.

What a release still declares but does not use any more, so that a later one may remove it, is marked ``info={"unused": True}``.
"""

import json
from typing import Any

from sqlalchemy import MetaData, Table, UniqueConstraint
from sqlalchemy.dialects import sqlite

from api_gateway.store.tables import SCHEMA_REVISION, metadata


def describe(tables: MetaData) -> dict[str, Any]:
    """Table -> its columns, with their types and whether they may be empty, and what must be unique in it."""
    return {table.name: _describe_table(table) for table in tables.sorted_tables if not table.info.get("unused")}


def _describe_table(table: Table) -> dict[str, Any]:
    columns = {
        column.name: {"type": column.type.compile(sqlite.dialect()), "nullable": column.nullable}
        for column in table.columns
        if not column.info.get("unused")
    }
    unique = [list(table.primary_key.columns.keys())]
    unique += [index.columns.keys() for index in table.indexes if index.unique]
    unique += [constraint.columns.keys() for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    return {"columns": columns, "unique": sorted(unique)}


if __name__ == "__main__":
    print(json.dumps({"revision": SCHEMA_REVISION, "tables": describe(metadata)}, indent=1, sort_keys=True))
