"""Keys that all processes over one store share: whoever needs one first makes it, and everybody has the same one from then on."""

import secrets
from collections.abc import Callable

from sqlalchemy import Connection, bindparam, insert, select

from api_gateway.store import counters
from api_gateway.store.tables import secrets as table

STREAM_KEY = "stream"
"""What tickets of event streams are signed with."""

_VALUE = select(table.c.value).where(table.c.name == bindparam("of_name"))


def find_secret(c: Connection, name: str) -> str | None:
    """Nobody has needed it yet: None."""
    found: str | None = c.execute(_VALUE, {"of_name": name}).scalar_one_or_none()
    return found


def get_or_make_secret(c: Connection, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
    """The secret of that name; of several who make it at a time the first one to commit has made everybody's."""
    counters.lock_counters(c)
    known = find_secret(c, name)
    if known is not None:
        return known
    made = make()
    c.execute(insert(table).values(name=name, value=made))
    return made
