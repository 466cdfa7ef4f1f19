"""The table of codes is complete, and its sentences say what is certain about the signal."""

import pytest

from compute_agent.contract.errors import CODES, Code, Ending
from compute_agent.drivers import errors


def test_every_code_has_its_meaning() -> None:
    assert set(CODES) == set(Code)


def test_every_ending_has_a_code() -> None:
    assert {meaning.ending for meaning in CODES.values()} == set(Ending)


def test_the_endings_are_the_four_that_were_promised() -> None:
    assert [ending.value for ending in Ending] == ["succeeded", "failed", "expired", "unknown"]


WITHOUT_SIGNAL = frozenset(
    {
        Code.DIAGNOSTICS_COLLECTED,
        Code.HOST_DUMP_TAKEN,
        Code.HOST_DUMP_FAILED,
        Code.NO_SPACE,
        Code.WATCHDOG_SET,
        Code.WATCHDOG_REMOVED,
        Code.NOTHING_TO_CHANGE,
        Code.WATCHDOG_EXISTS,
        Code.WATCHDOG_NOT_CHANGED,
        Code.RESUMED,
        Code.SERVER_NOT_PAUSED,
        Code.WATCHDOG_TIMER_RESET,
    }
)
"""Codes of actions that send the guest nothing."""


def test_every_sentence_is_one() -> None:
    assert all(meaning.sentence.endswith(".") for meaning in CODES.values())


@pytest.mark.parametrize("code", [code for code in Code if code not in WITHOUT_SIGNAL])
def test_a_sentence_says_what_is_certain_about_the_signal(code: Code) -> None:
    """People decide by this sentence whether they may ask again."""
    meaning = CODES[code]
    said = {
        Ending.SUCCEEDED: "was delivered",
        Ending.FAILED: "nothing was sent",
        Ending.EXPIRED: "before anything was sent",
        Ending.UNKNOWN: "perhaps",
    }
    assert said[meaning.ending] in meaning.sentence


@pytest.mark.parametrize("error", errors.NothingSent.__subclasses__(), ids=lambda error: error.__name__)
def test_each_kind_of_no_of_a_driver_ends_failed(error: type[errors.NothingSent]) -> None:
    assert CODES[error.code].ending is Ending.FAILED


def test_there_are_five_kinds_of_no() -> None:
    assert len(errors.NothingSent.__subclasses__()) == 5


def test_the_perhaps_of_a_driver_ends_unknown() -> None:
    assert CODES[errors.OutcomeUnknown.code].ending is Ending.UNKNOWN


def test_refused_credentials_end_failed_as_well() -> None:
    assert CODES[errors.BackendUnavailable(None, "access denied", Code.FORBIDDEN).code].ending is Ending.FAILED
