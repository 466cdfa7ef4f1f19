"""Calling an action off: noted on its row, where the dispatcher finds what its agent is to be told from then on."""

from datetime import datetime

from sqlalchemy import Connection

from api_gateway.store import counters
from api_gateway.store.actions import ActionRow, change_action, find_action_locked


def find_action_to_cancel(c: Connection, action_id: str) -> ActionRow | None:
    """The row as it stays until the transaction ends, which may then be ended, too (``endings``)."""
    counters.lock_counters(c)  # before the row, as whoever ends one does
    return find_action_locked(c, action_id)


def request_cancel(c: Connection, action_id: str, *, user: str, at: datetime) -> None:
    """Of a row that :func:`find_action_to_cancel` gave. Its agent is told at once, whatever was cast last and when."""
    change_action(c, action_id, {"cancel_requested_at": at, "cancel_requested_by": user, "cast_incarnation": None, "updated_at": at})
