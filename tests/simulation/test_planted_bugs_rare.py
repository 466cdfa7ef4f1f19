"""The same for what happens rarely: a restored store, servers that migrate, somebody who forges or thinks better of it. Each bug is found
in some seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_gateway.senders import SenderCheck
from api_gateway.store import events, restoring, servers
from api_gateway.store.ownership import Ownership, decide_owner
from compute_agent.cast_gate import CastGate
from compute_agent.journal import JournalledAction
from tests.simulation import restore
from tests.simulation.script import write_script
from tests.simulation.test_planted_bugs import make_rough_plan
from tests.simulation.test_seeds import run_script

MOST_SEEDS = 40

Plant = Callable[[pytest.MonkeyPatch], None]


def go_on_with_a_backup_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a restored store says of what was sent is believed."""
    monkeypatch.setattr(restore, "mark_restored", lambda c, now: None)


def give_numbers_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own events go on with the numbers of the backup."""
    monkeypatch.setattr(restoring, "_leap", lambda *_: None)


def refuse_whoever_had_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that tells of a server which has migrated since the backup counts as a foreign one."""
    from api_gateway.store import reports

    monkeypatch.setattr(reports, "is_forgotten", lambda *_, **__: False)
    monkeypatch.setattr(reports, "has_had", lambda *_: False)


def keep_the_owner_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server stays its first host's, wherever it runs."""

    def decide(owner: str | None, *arguments: Any, **options: Any) -> Ownership:
        return Ownership(owner) if owner is not None else decide_owner(owner, *arguments, **options)

    monkeypatch.setattr(servers, "decide_owner", decide)


def obey_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signature is looked at."""
    monkeypatch.setattr(CastGate, "check", lambda *_: None)


def believe_every_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever publishes may speak for any host."""
    monkeypatch.setattr(SenderCheck, "find_objection", lambda *_: None)


def show_what_a_foreign_host_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project sees what any host tells of its servers."""
    monkeypatch.setattr(events, "_is_foreign", lambda *_: False)


def cancel_what_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is told to cancel does not look how far the action has come."""
    monkeypatch.setattr(JournalledAction, "was_begun", False)


_RESTORED: dict[str, Any] = {"restorations": 10.0, "deadlines": (5.0, 30.0)}
_FORGED: dict[str, Any] = {"forgeries": 60.0, "signed": True, "hosts": 2, "actions": 10}

BUGS: list[tuple[Plant, dict[str, Any]]] = [
    (go_on_with_a_backup_as_it_is, {**_RESTORED, "cuts": 6.0, "deadlines": (3.0, 10.0)}),
    (give_numbers_out_twice, {**_RESTORED, "cuts": 8.0, "deadlines": (1.0, 3.0)}),
    (refuse_whoever_had_it_before, {**_RESTORED, "hosts": 2, "migrations": 10.0}),
    (keep_the_owner_for_ever, {"hosts": 2, "migrations": 6.0}),
    (obey_anybody, _FORGED),
    (believe_every_account, _FORGED),
    (show_what_a_foreign_host_tells, _FORGED),
    (cancel_what_has_begun, {"cancellations": 40, "actions": 0, "holdoff": 0.0}),
]


FIRST_TRIED: dict[Plant, int] = {
    go_on_with_a_backup_as_it_is: 1,
    give_numbers_out_twice: 5,
    refuse_whoever_had_it_before: 1,
    cancel_what_has_begun: 1,
}
"""Seeds that were the first to find a bug; where the world has changed since, the others are tried."""


def find_planted(plant: Plant, faults: dict[str, Any], first: int, template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong without the bug; with it something is, in some seed: ``first``, or one of the usual ones."""
    sound, _ = run_script(write_script(make_rough_plan(first, **faults)), template, folder / "sound")
    assert not sound, "without the bug nothing is wrong: " + "\n".join(sound)
    plant(monkeypatch)
    for seed in dict.fromkeys((first, *range(MOST_SEEDS))):
        violations, _ = run_script(write_script(make_rough_plan(seed, **faults)), template, folder / str(seed))
        if violations:
            print(f"found by seed {seed}: {violations[0][:300]}")
            return
    pytest.fail(f"{plant.__name__} was not found in {MOST_SEEDS} seeds")


@pytest.mark.parametrize(("plant", "faults"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_is_found(
    plant: Plant, faults: dict[str, Any], template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_planted(plant, faults, FIRST_TRIED.get(plant, 0), template, folder, monkeypatch)
