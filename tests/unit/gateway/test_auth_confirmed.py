"""A token that was confirmed a moment ago is not confirmed again, unless what was said of it may not hold any more."""

from datetime import timedelta
from typing import Any

import pytest

from api_gateway.auth.confirmed import ConfirmedTokens
from api_gateway.identity import Caller
from tests.fakes import FakeClock

ALICE, BOB = (Caller(user, "demo", frozenset({"member"})) for user in ("alice", "bob"))


def say(clock: FakeClock, *, seconds: float = 3600, **more: Any) -> dict[str, Any]:
    return {"expires_at": (clock.now() + timedelta(seconds=seconds)).isoformat(), **more}


@pytest.fixture
def tokens(clock: FakeClock) -> ConfirmedTokens:
    return ConfirmedTokens(clock, seconds=5, size=2)


def test_it_is_known_for_the_time_and_no_longer(tokens: ConfirmedTokens, clock: FakeClock) -> None:
    tokens.add("a", say(clock), ALICE)
    clock.advance(4.9)
    assert tokens.find("a") == ALICE
    assert tokens.find("b") is None
    clock.advance(0.2)
    assert tokens.find("a") is None


def test_it_is_never_known_past_its_end(tokens: ConfirmedTokens, clock: FakeClock) -> None:
    tokens.add("a", say(clock, seconds=2), ALICE)
    clock.advance(2)
    assert tokens.find("a") is None


@pytest.mark.parametrize(
    "more", [{"bind": {"kerberos": "alice"}}, {"application_credential": {"id": "ac", "access_rules": []}}], ids=["bound", "with rules"]
)
def test_what_holds_for_one_request_only_is_not_kept(tokens: ConfirmedTokens, clock: FakeClock, more: dict[str, Any]) -> None:
    tokens.add("a", say(clock, **more), ALICE)
    assert tokens.find("a") is None


def test_an_operator_who_wants_each_request_validated_gets_it(clock: FakeClock) -> None:
    tokens = ConfirmedTokens(clock, seconds=-1, size=2)
    tokens.add("a", say(clock), ALICE)
    assert tokens.find("a") is None


def test_the_oldest_gives_way(tokens: ConfirmedTokens, clock: FakeClock) -> None:
    for token, caller in (("a", ALICE), ("b", BOB), ("c", ALICE)):
        tokens.add(token, say(clock), caller)
    assert [tokens.find(token) for token in "abc"] == [None, BOB, ALICE]
