"""Nothing comes to cost more than it does, unseen: statements, commits and messages of each step, and bytes of each message.

These counts are the same on every machine, so one more query in a request fails here at once, long before a benchmark shows it.
"""

from tests.unit.counts.measuring import measure, read_stored
from tests.unit.counts.renew import COMMAND


def test_everything_costs_what_is_stored() -> None:
    stored, counted = read_stored(), measure()
    differing = [
        f"{what}, {unit}: {_tell(stored.get(what, {}).get(unit), counted.get(what, {}).get(unit))}"
        for what in stored | counted
        for unit in stored.get(what, {}) | counted.get(what, {})
        if stored.get(what, {}).get(unit) != counted.get(what, {}).get(unit)
    ]
    assert not differing, "\n".join([*differing, f"Where that is what the change is for, renew what is stored: {COMMAND}"])


def _tell(before: int | None, now: int | None) -> str:
    if before is None:
        return f"{now} is not stored yet"
    if now is None:
        return f"{before} is stored, and it is counted no more"
    return f"GROWN from {before} to {now}" if now > before else f"shrunk from {before} to {now}: renew it, so that it cannot grow again"
