"""What can come of an exchange with a BMC, and what of that the caller of a driver is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from compute_agent.contract.errors import Code
from compute_agent.contract.text import clean_line
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.redfish.documents import find, find_document, find_text, iterate_documents

UNAUTHORIZED, FORBIDDEN = 401, 403
NOT_IMPLEMENTED, UNAVAILABLE = 501, 503
NOT_THERE = frozenset({404, 405, 410, NOT_IMPLEMENTED})
"""How a BMC says that it has no such resource."""
_UNSUPPORTED = ("NotSupported", "NotInList", "NotWritable", "PropertyUnknown", "ParameterUnknown", "ResourceMissingAtURI", "NotImplemented")
"""What the keys of messages contain that say that this BMC never will, with these arguments."""


class ExchangeError(Exception):
    """Base: an exchange did not end with the answer that was asked for. Its text names no credential."""


class Unreachable(ExchangeError):
    """Nothing of the request was sent."""


class NoAnswer(ExchangeError):
    """The request was sent, at least in part, and no answer came that can be believed."""


class Unusable(ExchangeError):
    """The BMC answered what it was asked, and not in the words that Redfish has for it."""


class Refused(ExchangeError):
    """The BMC answered with an HTTP status that says no. ``keys``: which messages it gave, without registry and version."""

    def __init__(self, status: int, sentence: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(f"the BMC answered {status}: {sentence}" if sentence else f"the BMC answered {status} without a reason")
        self.status = status
        self.keys = keys

    @property
    def denies_access(self) -> bool:
        return self.status in (UNAUTHORIZED, FORBIDDEN)

    @property
    def is_for_ever(self) -> bool:
        """It says that this BMC cannot do it, not that it cannot now."""
        return self.status in NOT_THERE or any(word in key for key in self.keys for word in _UNSUPPORTED)


def read_refusal(status: int, body: Any, redact: Callable[[str], str] = str) -> Refused:
    """The refusal in an answer's JSON (None: it had none), with what its messages say after ``redact``."""

    def say(document: object, *path: str) -> str:
        found = find(document, *path)
        return clean_line(redact(found)) if isinstance(found, str) else ""

    messages = list(iterate_documents(body, "error", "@Message.ExtendedInfo"))
    if (single := find_document(body, "error", "@Message.ExtendedInfo")) is not None:
        messages.append(single)
    sentences = [text for message in messages if (text := say(message, "Message"))]
    # The general sentence only announces the others where there are some.
    said = sentences or [say(body, "error", "message") or say(body, "error", "code")]
    keys = [key.rpartition(".")[2] for message in messages if (key := find_text(message, "MessageId"))]
    return Refused(status, clean_line(" ".join(dict.fromkeys(said))), tuple(keys))


def deny_access(server: str, refusal: Refused) -> BackendUnavailable:
    """What a 401 or 403 means; nothing was done."""
    if refusal.status == UNAUTHORIZED:
        what = "does not accept the credentials: check username and password in the inventory"
    else:
        what = "does not let this account do it: raise its role there, or name another account in the inventory"
    return BackendUnavailable(server, f"the BMC {what} ({refusal})", Code.FORBIDDEN)


def translate(server: str, error: ExchangeError) -> BackendUnavailable:
    """The same, for what changes nothing and may be repeated."""
    if isinstance(error, Refused) and error.denies_access:
        return deny_access(server, error)
    return BackendUnavailable(server, str(error))


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Raises as a driver does, for a block that changes nothing and may be repeated.

    :raises BackendUnavailable: in place of any :class:`ExchangeError`
    """
    try:
        yield
    except ExchangeError as error:
        raise translate(server, error) from error
