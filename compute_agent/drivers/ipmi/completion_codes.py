"""What a BMC's completion code means in the words of the driver contract (IPMI 2.0, section 5.2, table 5-2).

A code is a "no" only where the specification says that the command was not carried out. "Timeout while processing" and "response could not
be provided" tell of the answer, not of the command: after one of these a command that changes something was perhaps carried out.
"""

from dataclasses import dataclass
from enum import Enum, auto

from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import (
    BackendUnavailable,
    DriverError,
    NothingSent,
    OutcomeUnknown,
    ServerNotRunning,
    ServerUnsupported,
)

DONE = 0x00
RESERVATION_CANCELLED = 0xC5
TOO_MANY_BYTES = frozenset({0xC7, 0xC8, 0xC9, 0xCA, 0xFF})
"""Codes by which BMCs refuse to give so much of a record at once; it is to be asked for in smaller pieces then."""


class Kind(Enum):
    """What follows from a code."""

    UNSUPPORTED = auto()
    """Not carried out, and it will not be the next time: there is no such thing here."""
    FORBIDDEN = auto()
    WRONG_STATE = auto()
    """Not carried out, because of the machine's present state."""
    REFUSED = auto()
    """Not carried out now; another time perhaps."""
    PERHAPS = auto()
    """Nobody knows whether it was carried out."""


@dataclass(frozen=True)
class Meaning:
    """A code's kind, and its text in the specification."""

    kind: Kind
    text: str


COMPLETION_CODES: dict[int, Meaning] = {
    0xC0: Meaning(Kind.REFUSED, "it is busy"),
    0xC1: Meaning(Kind.UNSUPPORTED, "invalid command"),
    0xC2: Meaning(Kind.UNSUPPORTED, "command invalid for this LUN"),
    0xC3: Meaning(Kind.PERHAPS, "timeout while processing the command"),
    0xC4: Meaning(Kind.REFUSED, "out of space"),
    RESERVATION_CANCELLED: Meaning(Kind.REFUSED, "reservation cancelled"),
    0xC6: Meaning(Kind.UNSUPPORTED, "request truncated"),
    0xC7: Meaning(Kind.UNSUPPORTED, "request length invalid"),
    0xC8: Meaning(Kind.UNSUPPORTED, "request field length limit exceeded"),
    0xC9: Meaning(Kind.UNSUPPORTED, "parameter out of range"),
    0xCA: Meaning(Kind.UNSUPPORTED, "cannot return so many bytes"),
    0xCB: Meaning(Kind.UNSUPPORTED, "sensor, data or record not present"),
    0xCC: Meaning(Kind.UNSUPPORTED, "invalid field in the request"),
    0xCD: Meaning(Kind.UNSUPPORTED, "command illegal for this sensor or record"),
    0xCE: Meaning(Kind.PERHAPS, "the response could not be provided"),
    0xCF: Meaning(Kind.PERHAPS, "cannot execute a duplicated request"),
    0xD0: Meaning(Kind.PERHAPS, "the response could not be provided: sensor repository in update mode"),
    0xD1: Meaning(Kind.PERHAPS, "the response could not be provided: firmware update mode"),
    0xD2: Meaning(Kind.PERHAPS, "the response could not be provided: the BMC is initializing"),
    0xD3: Meaning(Kind.REFUSED, "destination unavailable"),
    0xD4: Meaning(Kind.FORBIDDEN, "insufficient privilege"),
    0xD5: Meaning(Kind.WRONG_STATE, "not supported in the present state"),
    0xD6: Meaning(Kind.UNSUPPORTED, "the sub-function is disabled or unavailable"),
    0xFF: Meaning(Kind.PERHAPS, "unspecified error"),
}


def find_meaning(code: int) -> Meaning:
    """What ``code`` means; codes of devices and commands, and reserved ones, say nothing that could be relied on."""
    meaning = COMPLETION_CODES.get(code)
    if meaning is not None:
        return meaning
    if 0x01 <= code <= 0x7E:
        return Meaning(Kind.PERHAPS, "a code of its maker's own")
    if 0x80 <= code <= 0xBE:
        return Meaning(Kind.PERHAPS, "a code of this command's own")
    return Meaning(Kind.PERHAPS, "a reserved code")


def is_unsupported(code: int) -> bool:
    """Whether the BMC says that it has no such thing at all."""
    return find_meaning(code).kind is Kind.UNSUPPORTED


def translate_read_refusal(server: str, what: str, code: int) -> NothingSent:
    """What a refusal to read ``what`` means; nothing was changed, whatever the code."""
    meaning = find_meaning(code)
    reason = f"the BMC does not tell {what}: {_describe(code, meaning)}"
    if meaning.kind is Kind.UNSUPPORTED:
        return ServerUnsupported(server, reason)
    if meaning.kind is Kind.FORBIDDEN:
        return BackendUnavailable(server, reason, Code.FORBIDDEN)
    return BackendUnavailable(server, reason)


def translate_change_refusal(server: str, what: str, code: int) -> DriverError:
    """What the answer ``code`` to a request that changes something (``what``: "set the watchdog timer") means."""
    meaning = find_meaning(code)
    reason = f"the BMC did not {what}: {_describe(code, meaning)}"
    match meaning.kind:
        case Kind.UNSUPPORTED:
            return ServerUnsupported(server, reason)
        case Kind.FORBIDDEN:
            advice = "its user needs the privilege level operator there, and no lower privilege in the inventory"
            return BackendUnavailable(server, f"{reason}; {advice}", Code.FORBIDDEN)
        case Kind.WRONG_STATE:
            return ServerNotRunning(server, reason)
        case Kind.REFUSED:
            return BackendUnavailable(server, reason)
        case Kind.PERHAPS:
            return OutcomeUnknown(server, f"nobody knows whether the BMC did {what}: {_describe(code, meaning)}")


def _describe(code: int, meaning: Meaning) -> str:
    return f"{meaning.text} (completion code 0x{code:02X})"
