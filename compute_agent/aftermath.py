"""What is done after a crash, and where: black boxes and memory dumps, composed from the configuration.

Only composes; the threads that call the steps are the service's.
"""

import uuid
from pathlib import Path

from oslo_config import cfg

from compute_agent.black_box import BlackBoxes
from compute_agent.black_box_files import BlackBoxFiles
from compute_agent.collector import Collector
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import BlackBoxChunk
from compute_agent.drivers.base import Driver
from compute_agent.dumps_after_panic import DumpsAfterPanic
from compute_agent.host_dumps import DumpPlace, HostDumps
from compute_agent.journal import Journal, JournalledAction
from compute_agent.observations import Crash
from compute_agent.sampler import Sampler

_KIB = 1 << 10
_MIB = 1 << 20


class Aftermath:
    """Hears of crashes and of endings, from any thread, and only enqueues; :meth:`fill_box` and :meth:`take_dump` are one step each."""

    def __init__(
        self, conf: cfg.ConfigOpts, journal: Journal, driver: Driver, clock: Clock, sampler: Sampler, collector: Collector
    ) -> None:
        dumps, boxes = conf.host_dump, conf.black_box
        directory = Path(dumps.directory) if dumps.directory else None
        self.host_dumps = HostDumps(driver, clock, DumpPlace(directory, dumps.quota_mib * _MIB, dumps.min_free_mib * _MIB))
        self._after_panic = DumpsAfterPanic(journal, driver, clock, self.host_dumps, by_default=dumps.after_panic)
        self._files = BlackBoxFiles(Path(conf.agent.state_path) / "black_boxes", boxes.quota_mib * _MIB)
        self._boxes: BlackBoxes | None = None
        if boxes.quota_mib:
            self._boxes = BlackBoxes(
                journal,
                driver,
                clock,
                self._files,
                sampler,
                collector,
                console_tail=boxes.console_tail_kib * _KIB,
                new_id=lambda: uuid.uuid4().hex,
            )

    def clear_up(self) -> None:
        """At start: what a dead agent had not finished."""
        self.host_dumps.remove_unfinished()
        self._files.remove_unfinished()

    def crashed(self, crash: Crash) -> None:
        if self._boxes is not None:
            self._boxes.crashed(crash)
        self._after_panic.crashed(crash)

    def action_ended(self, action: JournalledAction) -> None:
        if self._boxes is not None:
            self._boxes.action_ended(action)

    def fill_box(self, timeout: float) -> bool:
        return self._boxes is not None and self._boxes.step(timeout)

    def take_dump(self, timeout: float) -> bool:
        return self._after_panic.step(timeout)

    def wake(self) -> None:
        """Let :meth:`fill_box` and :meth:`take_dump` return if they wait; from any thread."""
        if self._boxes is not None:
            self._boxes.wake()
        self._after_panic.wake()

    def read_box(self, black_box_id: str, part: str, offset: int) -> BlackBoxChunk:
        return self._files.read(black_box_id, part, offset)
