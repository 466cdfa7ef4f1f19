"""What a BMC's completion codes mean: a "no" only where it is certain that nothing was done."""

import pytest

from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import BackendUnavailable, NothingSent, OutcomeUnknown, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.ipmi.completion_codes import (
    COMPLETION_CODES,
    Kind,
    find_meaning,
    translate_change_refusal,
    translate_read_refusal,
)
from tests.unit.agent.ipmi_parts import SERVER


def test_every_generic_code_of_the_specification_is_there() -> None:
    assert set(COMPLETION_CODES) == {*range(0xC0, 0xD7), 0xFF}


@pytest.mark.parametrize("code", range(1, 256))
def test_every_code_has_a_meaning_and_names_itself(code: int) -> None:
    change, reading = translate_change_refusal(SERVER, "do it", code), translate_read_refusal(SERVER, "it", code)
    assert f"0x{code:02X}" in change.reason
    assert isinstance(reading, ServerUnsupported | BackendUnavailable)
    assert isinstance(change, OutcomeUnknown) == (find_meaning(code).kind is Kind.PERHAPS)
    assert change.server == reading.server == SERVER


@pytest.mark.parametrize("code", [0xC3, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xFF, 0x01, 0x7E, 0x80, 0xBE, 0xBF, 0x7F, 0xD7, 0xFE])
def test_what_says_nothing_of_the_command_itself_is_a_perhaps(code: int) -> None:
    assert isinstance(translate_change_refusal(SERVER, "do it", code), OutcomeUnknown)


@pytest.mark.parametrize(
    ("code", "error", "stable"),
    [
        (0xC0, BackendUnavailable, Code.BACKEND_UNAVAILABLE),
        (0xC1, ServerUnsupported, Code.NOT_SUPPORTED),
        (0xCC, ServerUnsupported, Code.NOT_SUPPORTED),
        (0xD4, BackendUnavailable, Code.FORBIDDEN),
        (0xD5, ServerNotRunning, Code.SERVER_NOT_RUNNING),
    ],
)
def test_the_refusals_that_bmcs_really_give(code: int, error: type[NothingSent], stable: Code) -> None:
    refusal = translate_change_refusal(SERVER, "do it", code)
    assert type(refusal) is error
    assert refusal.code is stable
