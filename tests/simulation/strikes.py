"""Strikes at chosen commits: chance alone would come to the rare ones once in a thousand worlds."""

import random
from collections.abc import Iterator

from tests.simulation.misfortunes import StrikeAtCommit
from tests.simulation.plan import Plan
from tests.simulation.probes import COMMIT_POINTS, IMPOSSIBLE, STRUCK_THERE
from tests.simulation.step import Step


def draw_strikes(plan: Plan, chance: random.Random) -> Iterator[Step]:
    """Some kills and freezes, each at a commit of a kind that is as likely as any other."""
    possible = [(label, fault) for label in COMMIT_POINTS for fault in STRUCK_THERE if (label, fault) not in IMPOSSIBLE]
    for _ in range(plan.strikes):
        label, fault = chance.choice(possible)
        side = "before" if fault == "killed before" else "after"
        yield StrikeAtCommit(0.0, label, side, chance.choice((1, 1, 2, 3, 5, 8)), chance.uniform(0.2, 15.0), fault == "frozen there")
