"""Memory dumps that nobody asked for: of a guest that panicked without a crash kernel, where its operator wants them.

pvpanic says "panicked" only when no crash kernel was loaded, so no dump of the guest's own is disturbed; and only a guest that is still
there, preserved as it crashed, has anything to be written. After ``crash_kernel_started``, or mere silence, nothing is done.
"""

import logging
import queue
from collections import deque
from datetime import datetime
from typing import Any

from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import DriverError, NothingSent
from compute_agent.drivers.models import DriverServer
from compute_agent.host_dumps import Dump, HostDumps, has_crash_kernel
from compute_agent.journal import Journal
from compute_agent.kinds import Refused
from compute_agent.observations import Crash

LOG = logging.getLogger(__name__)

_PANICKED = "server.panicked"


class DumpsAfterPanic:
    """Takes crashes from any thread; the dumps are taken one after the other in :meth:`step`.

    :param by_default: also of servers whose metadata says nothing of it
    """

    def __init__(self, journal: Journal, driver: Driver, clock: Clock, dumps: HostDumps, *, by_default: bool) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock
        self._dumps = dumps
        self._by_default = by_default
        self._panicked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._untold: deque[tuple[str, str, datetime, dict[str, Any]]] = deque()

    def crashed(self, crash: Crash) -> None:
        """Only enqueues. Bare metal, of which no platform has the memory, is not even asked for its state."""
        if crash.event_type == _PANICKED and self._driver.host_dump is not None:
            self._panicked.put(crash.server)

    def step(self, timeout: float) -> bool:
        """Take one dump, if one is wanted; False when no server has panicked for ``timeout`` seconds.

        :raises JournalUnusable: what came of it cannot be told.
        """
        self._tell_untold()
        try:
            server = self._panicked.get(timeout=timeout) if timeout > 0 else self._panicked.get_nowait()
        except queue.Empty:
            return False
        if server is None:
            return False
        seen = self._find_wanted(server)
        if seen is not None:
            self._take(seen)
        return True

    def wake(self) -> None:
        """Let a :meth:`step` that waits return; from any thread."""
        self._panicked.put(None)

    def _find_wanted(self, server: str) -> DriverServer | None:
        try:
            seen = self._driver.servers.get_server(server)
        except DriverError as error:
            LOG.warning("server %s panicked and cannot be read, no dump of its memory is taken: %s", server, error.reason)
            return None
        is_wanted = self._by_default if seen.host_dump_after_panic is None else seen.host_dump_after_panic
        if not is_wanted:
            return None
        if seen.power_state is not PowerState.CRASHED:
            LOG.info("server %s panicked and is %s now, not preserved: no dump of its memory", server, seen.power_state)
            return None
        if self._has_crash_kernel(server):
            LOG.info("server %s started a crash kernel before it panicked: its own dump is left alone", server)
            return None
        return seen

    def _has_crash_kernel(self, server: str) -> bool:
        with self._journal.transaction("read") as transaction:
            return has_crash_kernel(transaction, server)

    def _check_still_wanted(self, server: str) -> None:
        """It may have waited for another one for an hour: what runs by now is stopped for nobody.

        :raises Refused: nothing is written.
        """
        if self._find_wanted(server) is None:
            raise Refused(Code.SERVER_NOT_RUNNING, "The server is not as it was when it panicked; nothing was written.")

    def _take(self, seen: DriverServer) -> None:
        name = f"{self._clock.now():%Y%m%dT%H%M%SZ}"
        try:
            dump = self._dumps.take(seen, name, lambda: self._check_still_wanted(seen.id), wait=True)
        except Refused as refusal:
            self._tell_failure(seen.id, refusal.code, str(refusal))
        except DriverError as error:
            code = error.code if isinstance(error, NothingSent) else Code.ANSWER_LOST
            self._tell_failure(seen.id, code, error.reason)
        except Exception as error:
            LOG.exception("server %s: the driver failed to write its memory in a way that it does not declare", seen.id)
            self._tell_failure(seen.id, Code.DRIVER_FAULT, f"The driver failed: {error!r}")
        else:
            self._tell(seen.id, dump)

    def _tell(self, server: str, dump: Dump) -> None:
        body = {"path": str(dump.path), "bytes": dump.size, "duration": dump.duration}
        self._append("server.host_dump", server, body)

    def _tell_failure(self, server: str, code: Code, reason: str) -> None:
        LOG.error("server %s panicked, and its memory could not be written: %s: %s", server, code, reason)
        self._append("server.host_dump_failed", server, {"code": code, "reason": reason})

    def _append(self, event_type: str, server: str, body: dict[str, Any]) -> None:
        self._untold.append((event_type, server, self._clock.now(), body))
        self._tell_untold()

    def _tell_untold(self) -> None:
        """Also what found no room in the journal before: the file is there, and only its event says where."""
        while self._untold:
            event_type, server, occurred_at, body = self._untold[0]
            with self._journal.transaction("server.host_dump") as transaction:
                transaction.append_event(event_type, server=server, occurred_at=occurred_at, body=body)
            self._untold.popleft()
