"""Black boxes: what is handed on is what the event told of, or nothing is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_gateway import black_box
from api_gateway.agent_calls import AgentCalls
from api_gateway.black_box import Part, fetch
from api_gateway.faults import Fault
from compute_agent.contract.models import BlackBoxChunk
from tests.fakes import FakeClock
from tests.http import fleet
from tests.http.application import Application, create_application

NAME, CONTENTS = "console.log", fleet.BLACK_BOX_PARTS["console.log"]
PATH = f"/v1/events/{fleet.BLACK_BOX_EVENT}/black-box"


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    application = create_application(tmp_path)
    yield application
    application.close()


def fetch_part(application: Application) -> Any:
    return application.client.simulate_get(f"{PATH}/{NAME}")


def test_a_part_comes_whole_from_its_pieces(application: Application) -> None:
    answer = fetch_part(application)

    assert (answer.status_code, answer.content) == (200, CONTENTS)
    assert answer.headers["content-length"] == str(len(CONTENTS))


@pytest.mark.parametrize(
    "contents", [CONTENTS[:-1], CONTENTS + b"!", b"?" * len(CONTENTS), b""], ids=["shorter", "longer", "another digest", "empty"]
)
def test_what_is_not_what_the_event_told_of_is_not_handed_on(application: Application, contents: bytes) -> None:
    application.agents.parts[NAME] = contents

    answer = fetch_part(application)

    assert answer.status_code == 409
    assert answer.json["conflictingRequest"]["message"].endswith("its size or digest differs.")


def test_what_its_host_has_forgotten_is_404(application: Application) -> None:
    del application.agents.parts[NAME]

    assert fetch_part(application).status_code == 404
    assert application.client.simulate_get(PATH).status_code == 200


def test_a_host_that_does_not_answer_is_503(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> BlackBoxChunk:
        raise TimeoutError

    monkeypatch.setattr(application.agents, "get_black_box", fail)

    answer = fetch_part(application)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_an_agent_that_is_down_is_not_asked(application: Application) -> None:
    fleet.add_black_box(application.store, application.clock.now(), message_id="down", server=fleet.DOWN_AGENTS, host=fleet.DOWN_HOST)

    answer = application.client.simulate_get(f"/v1/events/down/black-box/{NAME}")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


def test_an_agent_of_an_older_release_has_none_to_hand_out(application: Application) -> None:
    fleet.add_black_box(application.store, application.clock.now(), message_id="old", server=fleet.OLD_AGENTS, host=fleet.OLD_HOST)

    answer = application.client.simulate_get(f"/v1/events/old/black-box/{NAME}")

    assert answer.status_code == 400
    assert "get_black_box needs RPC version 1.1" in answer.json["badRequest"]["message"]


@pytest.mark.parametrize("payload", [{"parts": "none"}, {"cause": None}])
def test_an_event_that_cannot_be_read_tells_of_none(application: Application, payload: dict[str, object]) -> None:
    fleet.add_black_box(application.store, application.clock.now(), message_id="odd", **payload)

    assert application.client.simulate_get("/v1/events/odd/black-box").status_code == 404


class Drip:
    """Hands out one byte at a time, each a second later."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        self._clock.advance(1)
        return BlackBoxChunk(total=1000, content="eA==")


def test_a_host_cannot_hold_a_request_by_handing_out_slowly(clock: FakeClock) -> None:
    calls = AgentCalls(lambda: Drip(clock), threads=1, limit=5.0)  # type: ignore[arg-type, return-value]

    with pytest.raises(Fault) as refused:
        fetch(calls, Part("a", "box", NAME, 1000, "0" * 64), monotonic=clock.monotonic)

    assert refused.value.status == 503
    assert "too slow" in refused.value.message


def test_what_is_too_large_to_hand_on_is_not_fetched() -> None:
    calls = AgentCalls(lambda: pytest.fail("asked"), threads=1, limit=5.0)

    with pytest.raises(Fault) as refused:
        fetch(calls, Part("a", "box", NAME, black_box.LARGEST_PART + 1, "0" * 64))

    assert refused.value.status == 409


def test_what_is_no_base64_is_not_handed_on() -> None:
    class Broken:
        def get_black_box(self, *_arguments: object, **_options: object) -> BlackBoxChunk:
            return BlackBoxChunk(total=3, content="%%%")

    calls = AgentCalls(Broken, threads=1, limit=5.0)  # type: ignore[arg-type]

    with pytest.raises(Fault) as refused:
        fetch(calls, Part("a", "box", NAME, 3, "0" * 64))

    assert refused.value.status == 409
