"""A server's black box: what this host knew of it before a crash, and what could be read of it right after.

Nothing is collected ahead of an NMI: what was before is the sampler's last reading, and everything else is read here, on a thread of its
own, after the action has ended. What happens to a server within a moment belongs to one crash: a signal and its panic make one box.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic_core import to_json

from compute_agent.black_box_files import BlackBoxFiles, NoRoom
from compute_agent.bounded_calls import BoundedCalls, NoAnswer
from compute_agent.collector import Collector
from compute_agent.contract.clock import Clock
from compute_agent.diagnostics import find_earlier, make_report
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import DriverError
from compute_agent.drivers.models import InspectedServer
from compute_agent.journal import Journal, JournalFull, JournalledAction
from compute_agent.kinds import Refused
from compute_agent.observations import Crash
from compute_agent.sampler import Sampler

_Answer = TypeVar("_Answer")
LOG = logging.getLogger(__name__)

SETTLING = 1.0
"""Seconds after a crash until its box is filled: a panic is told within milliseconds of its NMI, and then the box shows it."""
_LIMIT = 10.0
"""Seconds that one reading for a box may take."""
_THREADS = 2
_LONGEST_CONFIGURATION = 1 << 20


@dataclass(frozen=True)
class _Case:
    """A box to be filled. ``due`` by the monotonic clock."""

    server: str
    cause: str
    occurred_at: datetime
    due: float
    action_id: str | None = None


class BlackBoxes:
    """Takes cases from any thread; the boxes are filled one after the other in :meth:`step`.

    :param console_tail: bytes of the serial console's log that are kept; 0 = none, it is its owner's
    :param new_id: makes 32 hexadecimal digits
    """

    def __init__(
        self,
        journal: Journal,
        driver: Driver,
        clock: Clock,
        files: BlackBoxFiles,
        sampler: Sampler,
        collector: Collector,
        *,
        console_tail: int,
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._driver = driver
        self._clock = clock
        self._files = files
        self._sampler = sampler
        self._collector = collector
        self._console_tail = console_tail
        self._new_id = new_id
        self._inspections: BoundedCalls[InspectedServer] = BoundedCalls("black-box", threads=_THREADS, limit=_LIMIT)
        self._consoles: BoundedCalls[bytes | None] = BoundedCalls("console-tail", threads=_THREADS, limit=_LIMIT)
        self._condition = threading.Condition()
        self._cases: dict[str, _Case] = {}
        self._is_woken = False

    def crashed(self, crash: Crash) -> None:
        """Only enqueues."""
        self._add(crash.server, crash.event_type, crash.occurred_at, crash.action_id)

    def action_ended(self, action: JournalledAction) -> None:
        """A crash dump that was, or perhaps was, sent makes a box; called after its ending was committed."""
        if action.perhaps_sent and action.started_at is not None:
            self._add(action.request.server, action.request.kind, action.started_at, action.request.id)

    def step(self, timeout: float) -> bool:
        """Fill one box that is due, waiting ``timeout`` seconds for one at most; False when there was none.

        :raises JournalUnusable: it cannot be told.
        """
        case = self._take(timeout)
        if case is None:
            return False
        before = self._read_before(case)
        problems: dict[str, str] = {}
        state = self._read_state(case, problems)
        parts = {"sample-before.json": before, "diagnostics-after.json": self._read_after(case, problems)}
        parts |= {"domain.xml": self._find_configuration(state, problems), "console.log": self._read_console(case, problems)}
        self._keep(case, state, {name: content for name, content in parts.items() if content is not None}, problems)
        return True

    def wake(self) -> None:
        """Let a :meth:`step` that waits return; from any thread."""
        with self._condition:
            self._is_woken = True
            self._condition.notify_all()

    def _add(self, server: str, cause: str, occurred_at: datetime, action_id: str | None) -> None:
        with self._condition:
            case = _Case(server, cause, occurred_at, self._clock.monotonic() + SETTLING, action_id)
            earlier = self._cases.get(server)
            if earlier is not None:
                # The panic is often told before its NMI's action has ended: whichever began first names the case.
                first = case if occurred_at < earlier.occurred_at else earlier
                case = replace(first, due=earlier.due, action_id=earlier.action_id or action_id)
            self._cases[server] = case
            self._condition.notify()

    def _take(self, timeout: float) -> _Case | None:
        with self._condition:
            end = self._clock.monotonic() + timeout
            while True:
                now = self._clock.monotonic()
                case = min(self._cases.values(), key=lambda case: case.due, default=None)
                if case is not None and case.due <= now:
                    return self._cases.pop(case.server)
                if now >= end or self._is_woken:
                    self._is_woken = False
                    return None
                self._condition.wait(min(end, end if case is None else case.due) - now)

    # What goes in

    def _read_before(self, case: _Case) -> bytes | None:
        readings = self._sampler.list_readings(case.server)
        before = [reading for reading in readings if reading.collected_at < case.occurred_at]
        if not before:
            return None
        age = (case.occurred_at - before[-1].collected_at).total_seconds()
        return _to_json(make_report(before[-1], find_earlier(before[-1], before[:-1]), age=age).to_wire())

    def _read_after(self, case: _Case, problems: dict[str, str]) -> bytes | None:
        try:
            return _to_json(self._collector.get_report(case.server).to_wire())
        except Refused as refusal:
            problems["diagnostics-after.json"] = str(refusal)
            return None

    def _read_state(self, case: _Case, problems: dict[str, str]) -> InspectedServer | None:
        return _ask(self._inspections, case, lambda: self._inspect(case.server), "state.json", problems)

    def _inspect(self, server: str) -> InspectedServer:
        if self._driver.inspection is not None:
            return self._driver.inspection.inspect_server(server)
        seen = self._driver.servers.get_server(server)
        return InspectedServer(power_state=seen.power_state, state_reason=seen.state_reason)

    def _find_configuration(self, state: InspectedServer | None, problems: dict[str, str]) -> bytes | None:
        if state is None or state.configuration is None:
            return None
        content = state.configuration.encode()
        if len(content) > _LONGEST_CONFIGURATION:
            problems["domain.xml"] = f"{len(content)} bytes are more than the {_LONGEST_CONFIGURATION} that are kept"
            return None
        return content

    def _read_console(self, case: _Case, problems: dict[str, str]) -> bytes | None:
        inspection = self._driver.inspection
        if not self._console_tail or inspection is None:
            return None
        limit = self._console_tail
        tail = _ask(self._consoles, case, lambda: inspection.read_console_tail(case.server, limit), "console.log", problems)
        return None if tail is None else tail[-self._console_tail :]

    def _describe(self, case: _Case, state: InspectedServer | None, problems: dict[str, str]) -> dict[str, Any]:
        vcpus = [] if state is None else state.vcpus
        return {
            "server": case.server,
            "host": self._journal.host,
            "cause": case.cause,
            "action_id": case.action_id,
            "occurred_at": case.occurred_at.isoformat(),
            "read_at": self._clock.now().isoformat(),
            "power_state": None if state is None else state.power_state,
            "state_reason": None if state is None else state.state_reason,
            "vcpus": [{"number": vcpu.number, "state": vcpu.state, "cpu_time": vcpu.cpu_time, "host_cpu": vcpu.host_cpu} for vcpu in vcpus],
            "problems": problems,
        }

    def _keep(self, case: _Case, state: InspectedServer | None, parts: dict[str, bytes], problems: dict[str, str]) -> None:
        black_box_id = self._new_id()
        parts["state.json"] = _to_json(self._describe(case, state, problems))
        try:
            kept = self._files.put(black_box_id, parts)
        except (OSError, NoRoom) as error:
            LOG.error("the black box of server %s (%s) could not be kept: %s", case.server, case.cause, error)
            return
        body = {"black_box_id": black_box_id, "cause": case.cause, "action_id": case.action_id, "parts": kept}
        try:
            with self._journal.transaction("server.black_box") as transaction:
                transaction.append_event("server.black_box", server=case.server, occurred_at=self._clock.now(), body=body)
        except JournalFull as error:
            LOG.error("the black box of server %s (%s) is kept as %s and not told of: %s", case.server, case.cause, black_box_id, error)
            return
        LOG.info(
            "server %s on host %s: black box %s was kept (%s), %d bytes",
            *(case.server, self._journal.host, black_box_id, case.cause, sum(part.bytes for part in kept)),
        )


def _ask(calls: BoundedCalls[_Answer], case: _Case, work: Callable[[], _Answer], part: str, problems: dict[str, str]) -> _Answer | None:
    """What a driver says within the limit; a part that it cannot or does not say is left out of the box, and why is noted."""
    try:
        return calls.call(case.server, work)
    except (DriverError, NoAnswer) as error:
        problems[part] = str(error)
    except Exception as error:
        LOG.exception("server %s: reading %s for its black box failed in a way no driver declares", case.server, part)
        problems[part] = repr(error)
    return None


def _to_json(content: dict[str, Any]) -> bytes:
    return to_json(content, indent=1) + b"\n"  # json's own does without its C part where it indents
