"""The gate that every cast and call passes first: one whose signature does not hold does nothing, and is told of.

Refusals are counted; the first is told at once by the event ``agent.cast_refused`` and a line of the log, further ones together, once a
minute: whoever may publish to this host's queue must not be able to fill its journal.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oslo_config import cfg

from compute_agent.contract.clock import Clock
from compute_agent.contract.signing import CastRefused, CastVerifier
from compute_agent.journal import Journal, JournalUnusable

if TYPE_CHECKING:
    from compute_agent.trusted_keys import TrustedKeyFiles

LOG = logging.getLogger(__name__)

TOLD_EVERY_SECONDS = 60.0
TRIED_EVERY_SECONDS = 1.0
"""While the journal takes nothing."""
_CAST_MAX_AGE = timedelta(hours=1)
"""At least: the longest deadline of an action. A journal that keeps nothing must not mean that nobody is obeyed; what has left it is past
its deadline, which is signed."""


class CastGate:
    """Safe to use from several threads.

    :param verifier: None: everything passes, signed or not
    """

    def __init__(self, verifier: CastVerifier | None, journal: Journal, clock: Clock, host: str) -> None:
        self._verifier = verifier
        self._journal = journal
        self._clock = clock
        self._host = host
        self._refused: Counter[str] = Counter()
        self._since: datetime | None = None
        self._next_word = clock.monotonic()
        self._lock = threading.Lock()

    def check(self, method: str, context: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """:raises CastRefused: nothing may be done of it."""
        if self._verifier is None:
            return
        try:
            self._verifier.verify(method, context, arguments)
        except CastRefused as refused:
            with self._lock:
                self._since = self._since or self._clock.now()
                self._refused[refused.reason.value] += 1
            with suppress(JournalUnusable):  # the sweep tells again, and knows what such a journal means
                self.tell()
            raise

    def tell(self) -> None:
        """Tell of what was refused since it was last told of, if there is something and the minute is over.

        :raises JournalUnusable: it could not be; it is told with the next.
        """
        if self._since is None:
            return
        with self._lock:
            if self._since is None or self._clock.monotonic() < self._next_word:
                return
            self._next_word = self._clock.monotonic() + TRIED_EVERY_SECONDS
            reasons, count = dict(self._refused), self._refused.total()
            with self._journal.transaction("agent.cast_refused") as transaction:
                body = {"count": count, "reasons": reasons, "since": self._since}
                transaction.append_event("agent.cast_refused", server=None, occurred_at=self._clock.now(), body=body)
            LOG.warning(
                "host %s: %d casts refused since %s, nothing was done of them: %s",
                *(self._host, count, self._since.isoformat(timespec="seconds")),
                ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items())),
            )
            self._refused.clear()
            self._since = None
            self._next_word = self._clock.monotonic() + TOLD_EVERY_SECONDS


def find_trusted_keys(conf: cfg.ConfigOpts, clock: Clock) -> "TrustedKeyFiles | None":
    """As ``[signing]`` says; None, with a warning: whoever reaches this host's queue is obeyed.

    :raises KeyUnusable: they cannot be used; the text says why.
    """
    if not conf.signing.trusted_keys:
        LOG.warning("[signing] trusted_keys is not set: casts need no signature, whoever can publish to this host's queue is obeyed")
        return None
    from compute_agent.trusted_keys import TrustedKeyFiles  # here: what reads keys takes ten megabytes

    cast_max_age = max(timedelta(seconds=conf.agent.action_keep), _CAST_MAX_AGE)
    return TrustedKeyFiles(Path(conf.signing.trusted_keys), conf.host, clock, cast_max_age=cast_max_age)
