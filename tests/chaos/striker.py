"""Begins and ends faults when they are due, each in a thread of its own: one that takes long to be made or undone delays no other."""

import threading
from collections.abc import Mapping
from typing import Any

from devstack.services import Service
from devstack.steps import Steps
from tests.chaos.faults import Fault, Scene, list_hosts
from tests.chaos.history import What
from tests.chaos.schedule import Strike


class Striker:
    """What two faults need, they have one after the other, however long the first takes to be undone."""

    def __init__(self, scene: Scene, faults: Mapping[str, Fault], steps: Steps) -> None:
        self._scene = scene
        self._faults = faults
        self._steps = steps
        self._changed = threading.Condition()
        self._taken: set[str] = set()
        self._is_closing = False
        self._is_cut_short = threading.Event()
        self._threads: list[threading.Thread] = []

    def strike(self, strike: Strike) -> None:
        """Returns at once."""
        thread = threading.Thread(target=self._run, args=(strike,), name=f"fault-{strike.number}")
        thread.start()
        self._threads.append(thread)

    def revive(self) -> None:
        """As an init system does: start again what has ended by itself, for want of room on a full disk, say."""
        with self._changed:  # no fault begins meanwhile
            for name, part in self._scene.system.parts.items():
                if isinstance(part, Service) and name not in self._taken and not part.is_running:
                    self._scene.history.write(What.REVIVED, part=name, text=_read_last_line(part))
                    part.start()

    def wait_over(self) -> None:
        """Until all that have begun are undone; those that still wait for their parts are not begun any more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Undo at once what still lasts: who stops the system must find nobody who starts something of it again."""
        self._is_cut_short.set()
        self.wait_over()

    def _run(self, strike: Strike) -> None:
        fault = self._faults[strike.fault]
        needed = fault.list_needed(self._scene.system, strike.target)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or not needed & self._taken)
            if self._is_closing:
                return
            self._taken |= needed
        try:
            self._strike(strike, fault)
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()

    def _strike(self, strike: Strike, fault: Fault) -> None:
        fields: dict[str, Any] = {
            "id": strike.number,
            "name": fault.name,
            "target": strike.target,
            "hosts": list_hosts(fault, self._scene.system, strike.target),
            "parts": sorted(fault.list_parts(strike.target)),
            "offset": getattr(fault, "offset", None),
        }
        self._steps.say(f"             fault {strike.number}: {fault.name}, {strike.target}, {strike.duration:.1f} s")
        self._scene.history.write(What.FAULT, phase="begins", **fields)
        phase, text = "over", ""
        try:
            try:
                fault.begin(self._scene, strike.target)
                self._is_cut_short.wait(strike.duration)
            finally:
                fault.end(self._scene, strike.target)
        except Exception as error:  # noqa: BLE001 -- whatever it was: it is in the history as what spoils the run, which goes on
            phase, text = "failed", repr(error)
            self._steps.say(f"             fault {strike.number} FAILED: {text}")
        self._scene.history.write(What.FAULT, phase=phase, text=text, **fields)


def _read_last_line(service: Service) -> str:
    assert service.log is not None
    return service.log.read_text(errors="replace").rstrip().rpartition("\n")[2]
