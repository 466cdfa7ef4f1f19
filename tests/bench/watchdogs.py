"""From a watchdog's firing to the event that the API shows, and how many events can be recorded in a second.

Five real guests whose watchdogs fire all the time, 1.5 s apart. When a watchdog fired is QEMU's own word, out of a monitor that nobody
else reads. The floor is a bare listener of libvirt's beside the agent, in this process.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libvirt

from devstack.guests import GuestKind
from devstack.ports import find_free_base
from devstack.stack import GuestSpec, Stack
from tests.bench import recording
from tests.bench.beside import Beside
from tests.bench.figures import Figure
from tests.event_stream import EventStream
from tests.firing_ledger import Fired, FiringLedger

FIRED = "server.watchdog.fired"
GUESTS = tuple(GuestSpec(f"fires-{number}", GuestKind.DEAF, watchdog="i6300esb:none", second_monitor=True) for number in range(5))
GOAL = 1000.0
"""Milliseconds within which 99 of a hundred firings are to be visible."""
_POLL_PAUSE = 0.01
_TIMEOUT = 60.0
_FIRINGS_PER_RECORDING = 4
"""A run of the recorder, of two thousand events, is made once for so many firings of each guest."""


def measure(runs: int) -> list[Figure]:
    """``runs`` firings of each of the five guests, and a quarter as many runs of the recorder.

    :raises StepFailed: the stack or the broker did not come up.
    :raises TimeoutError: a firing was never shown.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_libvirt_events, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory:
        stack = Stack(Path(directory), find_free_base(), guests=GUESTS)
        try:
            stack.up()
            figures = _measure_firings(stack, runs)
        finally:
            stack.down()
    return figures + recording.measure(max(1, runs // _FIRINGS_PER_RECORDING))


def _run_libvirt_events() -> None:
    while libvirt.virEventRunDefaultImpl() == 0:
        pass


class _Reader(Beside):
    """Reads the list of firings to its end, again and again, on one connection and one thread of its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._netloc = urlsplit(url).netloc
        self.shown: list[tuple[dict[str, Any], datetime]] = []
        self.failure: str | None = None

    def _run(self) -> None:
        connection = HTTPConnection(self._netloc, timeout=_TIMEOUT)
        try:
            while not self._stop.wait(_POLL_PAUSE):
                self._read(connection)
        except (OSError, HTTPException) as error:
            self.failure = f"GET /v1/events: {error!r}"
        finally:
            connection.close()

    def _read(self, connection: HTTPConnection) -> None:
        after = self.shown[-1][0]["position"] if self.shown else 0
        connection.request("GET", f"/v1/events?type={FIRED}&after={after}")
        response = connection.getresponse()
        text = response.read()
        read_at = datetime.now(UTC)
        if response.status != 200:
            raise HTTPException(f"{response.status}: {text!r}")
        self.shown += [(event, read_at) for event in json.loads(text)["events"]]


@contextmanager
def _following(url: str, total: int) -> Iterator[list[tuple[str, datetime]]]:
    """What a reader of the event stream is told of that many firings, with the moment."""
    told: list[tuple[str, datetime]] = []
    stream = EventStream(f"{url}/v1/events/stream?type={FIRED}", last_id=0, timeout=_TIMEOUT)

    def note() -> None:
        for message in islice(stream, total):
            told.append((message.data["server"], datetime.now(UTC)))

    thread = threading.Thread(target=note, name="follower")
    thread.start()
    try:
        yield told
    finally:
        thread.join()
        stream.close()


@contextmanager
def _listening(uri: str) -> Iterator[list[tuple[str, datetime]]]:
    """What a client of libvirt that does nothing else is told of firings, with the moment."""
    told: list[tuple[str, datetime]] = []

    def note(_connection: object, domain: libvirt.virDomain, _action: int, _opaque: object) -> None:
        told.append((domain.UUIDString(), datetime.now(UTC)))

    connection = libvirt.open(uri)
    try:
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, note, None)
        yield told
    finally:
        connection.close()


def _measure_firings(stack: Stack, times: int) -> list[Figure]:
    guests = list(stack.guests.values())
    total = times * len(guests)
    began = time.monotonic()
    with (
        FiringLedger(guests) as ledger,
        _listening(stack.libvirtd.uri) as told,
        _following(stack.url, total) as streamed,
        _Reader(stack.url) as reader,
    ):
        for guest in guests:
            guest.commands.starve_watchdog(times=times)
        ledger.wait_for(lambda firings: len(firings) >= total, _TIMEOUT + 4.0 * times, f"{total} firings")
        give_up = time.monotonic() + _TIMEOUT
        while len(reader.shown) < total and reader.failure is None and time.monotonic() < give_up:
            time.sleep(_POLL_PAUSE)
        if len(reader.shown) < total:
            raise TimeoutError(reader.failure or f"{len(reader.shown)} of {total} firings are shown")
        fired = ledger.list_firings()
    seconds = time.monotonic() - began
    shown = [(event["server"], read_at) for event, read_at in reader.shown]
    committed = [(event["server"], datetime.fromisoformat(event["occurred_at"])) for event, _ in reader.shown]
    visible = _list_delays(fired, shown)
    note = f"goal p99 {GOAL:.0f} ms; {len(fired)} firings in {seconds:.0f} s, the API asked every {_POLL_PAUSE * 1000:.0f} ms"
    floor = "firing to a bare listener of libvirt"
    return [
        Figure("firing to QEMU's second monitor", [(each.read_at - each.at) / timedelta(milliseconds=1) for each in fired]),
        Figure(floor, _list_delays(fired, told)),
        Figure("firing to the agent", _list_delays(fired, committed), floor=floor),
        Figure("firing to the event on the stream", _list_delays(fired, streamed), floor=floor),
        Figure("firing to the event visible in the API", visible, floor=floor, note=note),
    ]


def _list_delays(fired: Sequence[Fired], seen: Sequence[tuple[str, datetime]]) -> list[float]:
    """Milliseconds from each firing until it was seen: of each server the first firing was seen first.

    :raises RuntimeError: not each was seen once.
    """
    delays = []
    for server in {each.server for each in fired}:
        moments = [each.at for each in fired if each.server == server]
        at = [moment for seen_of, moment in seen if seen_of == server]
        if len(at) != len(moments):
            raise RuntimeError(f"server {server} fired {len(moments)} times and was seen {len(at)} times")
        delays += [(later - earlier) / timedelta(milliseconds=1) for earlier, later in zip(moments, at, strict=True)]
    return delays
