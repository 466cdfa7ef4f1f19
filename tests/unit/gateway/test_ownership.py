"""Who owns a server: the table of the architecture page, case by case."""

from datetime import UTC, datetime, timedelta

import pytest

from api_gateway.store.ownership import Claim, Ownership, decide_owner

EARLY = datetime(2026, 1, 1, tzinfo=UTC)
LATE = EARLY + timedelta(minutes=1)


def running(host: str, state_at: datetime = EARLY, up: bool = True, current: bool | None = None) -> Claim:
    return Claim(host, "running", state_at, up=up, current=up if current is None else current)


def shut_off(host: str, state_at: datetime = EARLY, up: bool = True) -> Claim:
    return Claim(host, "shutdown", state_at, up=up, current=up)


def paused(host: str) -> Claim:
    return Claim(host, "paused", EARLY)


CASES = {
    "nobody has it": (None, [], {}, Ownership(None)),
    "the first host that has it owns it": (None, [running("a")], {}, Ownership("a")),
    "a shut-off server is owned when nobody else has it": (None, [shut_off("a")], {}, Ownership("a")),
    "of two new ones the running one owns it": (None, [shut_off("a", LATE), running("b")], {}, Ownership("b")),
    "the owner keeps it": ("a", [running("a")], {}, Ownership("a")),
    "a shut-off leftover does not claim": ("b", [shut_off("a", LATE), running("b")], {}, Ownership("b")),
    "a shut-off leftover does not claim from an owner that is down": (
        "b",
        [shut_off("a", LATE), running("b", up=False)],
        {},
        Ownership("b"),
    ),
    "a shut-off owner keeps it from a shut-off leftover": ("a", [shut_off("a"), shut_off("b", LATE)], {}, Ownership("a")),
    "a shut-off owner has the leftover when another runs it": ("a", [shut_off("a"), running("b", LATE)], {}, Ownership("b")),
    "a paused owner keeps it until it lets go": ("a", [paused("a"), running("b", LATE)], {}, Ownership("a")),
    "two that run it are in conflict and the owner stays": ("a", [running("a"), running("b", LATE)], {}, Ownership("a", "b")),
    "a paused copy is no conflict": ("a", [running("a"), paused("b")], {}, Ownership("a")),
    "an owner that is down loses it to a host that runs it": ("a", [running("a", up=False), running("b")], {}, Ownership("b")),
    "an owner that came back shut off has lost it": ("b", [shut_off("a", LATE), running("b")], {}, Ownership("b")),
    "an owner that came back running is in conflict": ("b", [running("a"), running("b")], {}, Ownership("b", "a")),
    "the last word of a host that is down is no conflict": ("b", [running("a", up=False), running("b")], {}, Ownership("b")),
    "an old word of a host that cannot read its inventory is no conflict": (
        "b",
        [running("a", current=False), running("b")],
        {},
        Ownership("b"),
    ),
    "an owner that cannot read its inventory keeps it": ("a", [running("a", current=False), running("b")], {}, Ownership("a")),
    "a conflict lasts while one of both cannot read its inventory": (
        "a",
        [running("a"), running("b", current=False)],
        {"conflict_host": "b"},
        Ownership("a", "b"),
    ),
    "a conflict ends when the other lets go": ("a", [running("a")], {"conflict_host": "b"}, Ownership("a")),
    "a conflict ends when the other shuts it off": ("a", [running("a"), shut_off("b")], {"conflict_host": "b"}, Ownership("a")),
    "a conflict ends with the owner's release": ("a", [running("b")], {"released": True, "conflict_host": "b"}, Ownership("b")),
    "a released server goes to the host that runs it": ("a", [shut_off("b", LATE), running("c")], {"released": True}, Ownership("c")),
    "a released server goes to a shut-off copy when nobody runs it": ("a", [shut_off("b")], {"released": True}, Ownership("b")),
    "a released server that nobody has is missing": ("a", [], {"released": True}, Ownership(None)),
    "a server that vanished goes to a host that runs it": ("a", [running("b")], {}, Ownership("b")),
    "a server that vanished does not go to a leftover": ("a", [shut_off("b")], {}, Ownership(None)),
    "a third that runs it as well is in conflict with the heir": ("a", [running("b"), running("c", LATE)], {}, Ownership("c", "b")),
}


@pytest.mark.parametrize("case", CASES)
def test_ownership(case: str) -> None:
    owner, claims, circumstances, expected = CASES[case]
    assert decide_owner(owner, claims, **circumstances) == expected  # type: ignore[arg-type]


def test_the_order_of_the_claims_does_not_matter() -> None:
    claims = [running("b"), running("c"), shut_off("d", LATE)]
    assert decide_owner(None, claims) == decide_owner(None, claims[::-1]) == Ownership("b", "c")
