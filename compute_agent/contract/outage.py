"""Log an outage without filling the log."""

import logging

LOG = logging.getLogger(__name__)


class Outage:
    """Says once that something is away, and once that it is back, instead of at each try."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_away = False

    def begin(self, reason: object) -> None:
        if not self._is_away:
            LOG.warning("%s: %s; trying again until it works", self._what, reason)
        self._is_away = True

    def end(self) -> None:
        if self._is_away:
            LOG.info("%s: works again", self._what)
        self._is_away = False
