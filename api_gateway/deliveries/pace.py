"""When the engine looks for what is to be delivered: at once where a try has become possible, else a while after the last look."""

import threading

_INTERVAL = 0.25
"""Seconds between two looks for what was recorded and what is due again: of a busy fleet there is something new all the time."""
_IDLE_INTERVAL = 1.0
"""The same where the recorder of this process tells that there is something new, as long as there is not."""


class Pace:
    """One thread waits; any other may end its wait.

    :param is_told: somebody calls :meth:`note_news`
    """

    def __init__(self, *, is_told: bool) -> None:
        self._idle_for = _IDLE_INTERVAL - _INTERVAL if is_told else 0.0
        self._hurry = threading.Event()
        self._news = threading.Event()

    def hurry(self) -> None:
        """A slot is free, or all is to end."""
        self._hurry.set()
        self._news.set()

    def note_news(self) -> None:
        """Something was recorded."""
        self._news.set()

    def begin_look(self) -> None:
        """What is told from here on is not seen by this look."""
        self._hurry.clear()
        self._news.clear()

    def wait(self, *, is_behind: bool) -> None:
        """Until the next look is due.

        :param is_behind: the last one left something
        """
        if not (self._hurry.wait(_INTERVAL) or is_behind):
            self._news.wait(self._idle_for)
