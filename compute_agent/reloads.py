"""SIGHUP: files other than the configuration are read anew, off the signal handler: the driver's own, and the trusted keys."""

import logging
import queue
from collections.abc import Callable

from compute_agent.drivers.base import Driver

LOG = logging.getLogger(__name__)


class Reloads:
    """Those that were asked for, carried out one after the other by one thread.

    :param on_reloaded: told after each in which the driver read files
    :param reload_keys: reads the trusted keys
    """

    def __init__(self, driver: Driver, on_reloaded: Callable[[], None], reload_keys: Callable[[], None] = lambda: None) -> None:
        self._driver = driver
        self._reload_keys = reload_keys
        self._on_reloaded = on_reloaded
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def request(self) -> None:
        """From any thread and from a signal handler."""
        self._asked.put(True)

    def wake(self) -> None:
        """Let a :meth:`step` that waits return without having done anything."""
        self._asked.put(False)

    def step(self) -> None:
        """Waits for the next request; those that came meanwhile are answered by the same reading."""
        if not self._asked.get():
            return
        while not self._asked.empty():
            self._asked.get_nowait()
        self._reload_keys()
        if self._driver.reload is None:
            LOG.info("SIGHUP: the driver %s has no files of its own, there is nothing to read anew", self._driver.name)
            return
        LOG.info("SIGHUP: the driver %s reads its files anew", self._driver.name)
        self._driver.reload.reload()
        self._on_reloaded()
