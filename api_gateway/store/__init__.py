"""The gateway's store: what was asked for, what happened, which servers and agents there are.

``Store`` opens transactions; the modules beside it (``actions``, ``servers``, ``agents``, ``events``, ``outbox``) hold plain functions over
a :class:`Connection`, one file per noun, so that one transaction can span several of them::

    with store.write() as c:
        blocking = actions.find_blocking_crash_dump(c, server, now=now, holdoff=holdoff)
        actions.insert_action(c, row)

All times in Python are timezone-aware UTC; in the tables they are integer microseconds since 1970.
"""

from sqlalchemy import Connection

from api_gateway.store.engine import Store
from api_gateway.store.errors import OutOfOrder, SchemaOutdated, StoreBusy, StoreError, StoreRejected, StoreUnavailable, UnsafeLocation

__all__ = [
    "Connection",
    "OutOfOrder",
    "SchemaOutdated",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreRejected",
    "StoreUnavailable",
    "UnsafeLocation",
]
