"""The last so many message ids: which of them came before."""

from collections import OrderedDict


class Seen:
    """Knows the last ``limit`` message ids, for a consumer that needs each event once and no order.

    An agent may be asked to tell again what it told up to a day ago: ``limit`` should hold what comes in a day. :class:`Ordering` has no
    such limit for what has a place in its journal.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, message_id: str) -> bool:
        """Remember an id; False if it was known."""
        is_new = message_id not in self._ids
        self._ids[message_id] = None
        self._ids.move_to_end(message_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)
        return is_new
