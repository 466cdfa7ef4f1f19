"""What the API tells the stream's listener about a reader: which events, and how much of them, signed and good for a short time.

The listener asks nobody who a reader is. Whoever has a ticket may use it until it expires, so it belongs into no log.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from api_gateway.native.event_view import find_shown
from api_gateway.store.event_listing import EventFilters

PATH = "/v1/events/stream/live"
"""Where the listener answers, beside the API's own paths: a proxy in front of both tells them apart by it."""
PARAMETER = "ticket"
_PURPOSE = b"crashcart event stream 1\n"
"""Part of what is signed: the key signs nothing else in these words."""
_TIMES = ("since", "until")


class TicketRefused(Exception):
    """The ticket is none of ours, or too old; the text is for the reader."""


@dataclass(frozen=True)
class Ticket:
    """``after``: the position behind which the stream begins. ``withheld``: what the reader may not see (``native.event_view``).

    ``expires``: it must have been brought by then; the stream itself goes on.
    """

    filters: EventFilters
    withheld: frozenset[str]
    after: int
    expires: datetime

    def continue_behind(self, position: int | None) -> "Ticket":
        """The same for a reader that has come to ``position`` by now; None: it does not say."""
        return self if position is None else replace(self, after=position)

    def sign(self, key: str) -> str:
        """As text for a URL."""
        filters = {name: value for name, value in vars(self.filters).items() if value is not None}
        filters |= {name: filters[name].isoformat() for name in _TIMES if name in filters}
        told = {"filters": filters, "shown": sorted(find_shown(self.withheld)), "after": self.after, "expires": self.expires.timestamp()}
        body = _encode(json.dumps(told, separators=(",", ":")).encode("ascii"))
        return f"{body}.{_encode(_compute_signature(body, key))}"


def read_ticket(text: str, key: str, now: datetime) -> Ticket:
    """:raises TicketRefused: it was not signed with ``key``, or has expired."""
    body, _, signature = text.partition(".")
    if not text.isascii() or not hmac.compare_digest(signature, _encode(_compute_signature(body, key))):
        raise TicketRefused("This ticket is none of this gateway's: ask its API for one.")
    told = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    expires = datetime.fromtimestamp(told["expires"], UTC)
    if now >= expires:
        raise TicketRefused("This ticket has expired: ask the API for another one.")
    return Ticket(_read_filters(told["filters"]), find_shown(told["shown"]), told["after"], expires)


def _read_filters(told: dict[str, Any]) -> EventFilters:
    values = told | {name: datetime.fromisoformat(told[name]) for name in _TIMES if name in told}
    if "types" in values:
        values["types"] = tuple(values["types"])
    return EventFilters(**values)


def _compute_signature(body: str, key: str) -> bytes:
    return hmac.digest(key.encode(), _PURPOSE + body.encode(), hashlib.sha256)


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
