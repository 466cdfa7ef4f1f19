"""In which of an upgrade's two steps a migration of the tables is made.

A release's migrations first expand: they only add, and the release before goes on over what they have made. The other kind contracts: it
removes or tightens what that release has not used any more either, once nothing older runs. So each step can be made while two releases
run side by side, and a gateway can be taken back to the release before after either.
"""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """``BASELINE`` is what led to the first release: nothing ran beside it."""

    BASELINE = "baseline"
    EXPAND = "expand"
    CONTRACT = "contract"


@dataclass(frozen=True)
class Migration:
    """One of the schema's history: its number, its phase, and what it is for in one line."""

    revision: str
    phase: Phase
    purpose: str

    def __str__(self) -> str:
        return f"{self.revision} ({self.phase}): {self.purpose}"
