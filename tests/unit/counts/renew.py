"""``python -m tests.unit.counts.renew``: store what everything costs now."""

from tests.unit.counts.measuring import measure, write_stored

COMMAND = "python -m tests.unit.counts.renew"

if __name__ == "__main__":
    write_stored(measure())
