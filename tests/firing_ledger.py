"""What QEMU itself says, past crashcart and libvirtd: a second monitor of each guest, read by a thread of our own."""

import json
import os
import selectors
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from devstack.guests import Guest
from devstack.services import PATIENCE

_ENABLE = b'{"execute": "qmp_capabilities"}\n'


@dataclass(frozen=True)
class Fired:
    """One WATCHDOG event: ``at`` is QEMU's own moment of it, to the microsecond; ``read_at`` is when it was read here."""

    server: str
    at: datetime
    action: str
    read_at: datetime


class FiringLedger:
    """Every firing of these guests, which have a second monitor, from its start until its end.

    What a guest says before it is read waits in its pipe; a guest that is started again is listened to again.
    """

    def __init__(self, guests: Iterable[Guest]) -> None:
        self._selector = selectors.DefaultSelector()
        self._ends: list[int] = []
        self._monitors: list[_Monitor] = []
        for guest in guests:
            # Opened for both directions: the pipe then outlives QEMU, and nobody waits for the other end.
            ends = tuple(os.open(guest.monitor.with_suffix(f".{end}"), os.O_RDWR | os.O_NONBLOCK) for end in ("in", "out"))
            self._ends += ends
            self._monitors.append(_Monitor(guest.uuid, ends[0]))
            self._selector.register(ends[1], selectors.EVENT_READ, self._monitors[-1])
        self._stop, self._wake = os.pipe()
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._firings: list[Fired] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="firing-ledger", daemon=True)

    def __enter__(self) -> "FiringLedger":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._wake, b"x")
        self._thread.join(10)
        self._selector.close()
        for end in (*self._ends, self._stop, self._wake):
            os.close(end)

    def list_firings(self, server: str | None = None) -> list[Fired]:
        """Of one server, or of all, in the order in which they were read."""
        with self._changed:
            return [fired for fired in self._firings if server in (None, fired.server)]

    def count_panics(self, server: str) -> int:
        """How often QEMU said that this guest panicked."""
        return sum(monitor.panics for monitor in self._monitors if monitor.server == server)

    def wait_for(self, condition: Callable[[list[Fired]], bool], timeout: float, what: str) -> None:
        """Until what was read fulfils ``condition``.

        :raises TimeoutError: it never did.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._firings), timeout * PATIENCE):
                raise TimeoutError(f"waited {timeout:g} s for {what}, in vain; {len(self._firings)} firings until now")

    def wait_for_next(self, servers: Iterable[str], timeout: float) -> None:
        """Until each of these servers has fired once more."""
        wanted, since = set(servers), datetime.now(UTC)

        def have_fired(firings: list[Fired]) -> bool:
            return wanted <= {fired.server for fired in firings if fired.at > since}

        self.wait_for(have_fired, timeout, f"{len(wanted)} guests to fire")

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._stop:
                    return
                firings = key.data.read(key.fd)
                with self._changed:
                    self._firings += firings
                    self._changed.notify_all()


class _Monitor:
    """One guest's pipe of lines of JSON."""

    def __init__(self, server: str, to_qemu: int) -> None:
        self.server = server
        self.panics = 0
        self._to_qemu = to_qemu
        self._rest = b""

    def read(self, from_qemu: int) -> list[Fired]:
        *lines, self._rest = (self._rest + os.read(from_qemu, 65536)).split(b"\n")
        read_at = datetime.now(UTC)
        firings = []
        for line in lines:
            said = json.loads(line)
            if "QMP" in said:
                os.write(self._to_qemu, _ENABLE)  # it says nothing before this
            elif said.get("event") == "GUEST_PANICKED":
                self.panics += 1
            elif said.get("event") == "WATCHDOG":
                stamp = said["timestamp"]
                at = datetime.fromtimestamp(stamp["seconds"], UTC) + timedelta(microseconds=stamp["microseconds"])
                firings.append(Fired(self.server, at, said["data"]["action"], read_at))
        return firings
