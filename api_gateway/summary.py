"""Words about what anybody can cause as often as they like: at once the first time, then together, once a minute.

Whoever may publish to the gateway's queues must not be able to fill its log.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime

from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

TOLD_EVERY_SECONDS = 60.0
_LONGEST_EXAMPLE = 600


@dataclass
class _Untold:
    """What happened since it was last told of; ``next_word`` is monotonic."""

    next_word: float
    since: datetime
    count: int = 0
    level: int = logging.WARNING
    example: str = ""
    error: BaseException | None = None


class Summary:
    """Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._untold: dict[str, _Untold] = {}
        self._lock = threading.Lock()

    def note(self, what: str, example: str, *, level: int = logging.WARNING, times: int = 1, error: BaseException | None = None) -> None:
        """It happened so often.

        :param what: one of a few texts: each has a minute of its own
        :param example: how it was this time; cut, and told on one line, whatever it says
        :param error: told with its traceback
        """
        with self._lock:
            untold = self._untold.setdefault(what, _Untold(self._clock.monotonic(), self._clock.now()))
            if not untold.count:
                untold.since = self._clock.now()
            untold.count += times
            untold.level, untold.example, untold.error = level, example, error
        self.tell()

    def tell(self) -> None:
        """Tell of what is due; to be called every now and then."""
        with self._lock:
            now = self._clock.monotonic()
            for what, untold in self._untold.items():
                if not untold.count or now < untold.next_word:
                    continue
                LOG.log(
                    untold.level,
                    "%s: %d since %s, the last: %s",
                    *(what, untold.count, untold.since.isoformat(timespec="seconds"), _shorten(untold.example)),
                    exc_info=untold.error,
                )
                untold.count, untold.error, untold.next_word = 0, None, now + TOLD_EVERY_SECONDS


def _shorten(text: str) -> str:
    shown = text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"
    return shown if shown.isprintable() else repr(shown)
