"""What may go wrong with the store, in the words that its callers act on; none of them names a database library."""


class StoreError(Exception):
    """Base of everything that the store raises on purpose."""


class StoreBusy(StoreError):
    """Somebody else held the store for longer than the busy timeout. Nothing was written; trying again later is right (503)."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or cannot write (server away, disk full, file missing). Nothing was written."""


class StoreRejected(StoreError):
    """The store refused the values themselves (a constraint, a type): trying the same again will not help."""


class SchemaOutdated(StoreError):
    """The tables are missing or older than this release; the text says which command puts that right."""


class OutOfOrder(StoreError):
    """A step of the schema's upgrade was asked for before the one that it builds on; the text says which command does that."""


class UnsafeLocation(StoreError):
    """A SQLite file lies where its locks cannot be trusted (a network or FUSE file system)."""
