"""One question to a BMC: its data, or why there are none, in the words of the driver contract."""

from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown
from compute_agent.drivers.ipmi.completion_codes import DONE, translate_change_refusal, translate_read_refusal
from compute_agent.drivers.ipmi.exchange import Conversation, NoAnswer, Request, Response


class Silence(BackendUnavailable):
    """No answer came: of the rest, too, none is to be expected in time."""


def read(server: str, request: Request, what: str, least: int = 0) -> Conversation[bytes]:
    """The data that a BMC answers to a request that changes nothing; ``least`` is how many bytes make an answer.

    :raises ServerUnsupported: the BMC has no such thing.
    :raises BackendUnavailable: it refused, said nothing, or something that is no answer.
    """
    response = yield from _ask(server, request, what)
    if response.code != DONE:
        raise translate_read_refusal(server, what, response.code)
    return check_length(server, response.data, what, least)


def read_coded(server: str, request: Request, what: str) -> Conversation[Response]:
    """The same where a code is an answer, too.

    :raises Silence: no answer came.
    """
    return (yield from _ask(server, request, what))


def change(server: str, request: Request, what: str) -> Conversation[None]:
    """Have something done; returns when the BMC said that it is.

    :raises ServerUnsupported, ServerNotRunning, BackendUnavailable: the BMC said that it is not.
    :raises OutcomeUnknown: no answer came, or one that does not say it.
    """
    code = yield from change_coded(server, request, what)
    if code != DONE:
        raise translate_change_refusal(server, what, code)


def change_coded(server: str, request: Request, what: str) -> Conversation[int]:
    """The same where the command has completion codes of its own.

    :raises OutcomeUnknown: no answer came.
    """
    try:
        response = yield request
    except NoAnswer as silence:
        raise OutcomeUnknown(server, f"the BMC was told to {what}, and nobody knows whether it did: {silence}") from silence
    return response.code


def check_length(server: str, answer: bytes, what: str, least: int) -> bytes:
    """``answer``, if it is one.

    :raises BackendUnavailable: it is too short.
    """
    if len(answer) < least:
        raise BackendUnavailable(server, f"the BMC's answer about {what} has {len(answer)} bytes instead of {least}")
    return answer


def _ask(server: str, request: Request, what: str) -> Conversation[Response]:
    try:
        return (yield request)
    except NoAnswer as silence:
        raise Silence(server, f"{what} cannot be read: {silence}") from silence
