"""How long an action may wait."""

LONGEST_DEADLINE_MS = 3_600_000
"""An action's deadline lies at most this far ahead, so a cast that waited longer in the broker is of no use."""
