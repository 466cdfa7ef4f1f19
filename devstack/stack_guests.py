"""The private libvirtd of a stack and its guests."""

from __future__ import annotations

import json
import os
import uuid as uuids
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from devstack.deployment import GuestSpec
from devstack.guest_image import GuestImage, GuestImages
from devstack.guests import Guest
from devstack.libvirtd import PrivateLibvirtd
from devstack.side_by_side import run_side_by_side
from devstack.stack_config import PROJECT, USER, Options
from devstack.steps import Steps


class StackGuests:
    """Found again by any later object with the same directory."""

    def __init__(self, state_dir: Path, specs: Iterable[GuestSpec], steps: Steps) -> None:
        self.libvirtd = PrivateLibvirtd(state_dir)
        self.guests: dict[str, Guest] = {}
        self.specs = list(specs)
        self._steps = steps
        self._directory = state_dir / "guests"
        self._saved = state_dir / "guests.json"

    @property
    def agent_options(self) -> Options:
        return {"agent": {"driver": "libvirt"}, "libvirt": {"uri": self.libvirtd.uri, "auto_dump_path": self.libvirtd.dump_dir}}

    def start(self) -> None:
        """Start libvirtd and the guests and wait until these are ready; raises StepFailed."""
        image = make_image(self._steps)
        with self._steps.step("libvirtd, private"):
            self.libvirtd.start()
        if self.specs:
            self._define(image)
        boots = [partial(self._boot, spec, image) for spec in self.specs if spec.running]
        run_side_by_side(*boots, at_once=(os.cpu_count() or 1) + 1)

    def list_running(self) -> dict[str, bool]:
        """Each guest's uuid, and whether it shall run."""
        return {self.guests[spec.name].uuid: spec.running for spec in self.specs}

    def _boot(self, spec: GuestSpec, image: GuestImage) -> None:
        with self._steps.step(f"guest {spec.name} ({spec.kind}, {image.accelerator}) booted"):
            self.guests[spec.name].start()
            self.guests[spec.name].wait_ready()

    def _define(self, image: GuestImage) -> None:
        """Define what shall be there, undefine what an earlier start left."""
        kept = self._read_ids()
        self.specs = [replace(spec, uuid=spec.uuid or kept.get(spec.name) or str(uuids.uuid4())) for spec in self.specs]
        with self.libvirtd.connect() as connection:
            for domain in connection.listAllDomains():
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
        for spec in self.specs:
            guest = Guest(
                kind=spec.kind,
                name=spec.name,
                uuid=spec.uuid,
                directory=self._directory,
                image=image,
                project=PROJECT,
                user=USER,
                on_crash=spec.on_crash,
                watchdog=spec.watchdog,
                machine=spec.machine,
                pci_room=spec.pci_room,
                second_monitor=spec.second_monitor,
            )
            guest.define(self.libvirtd.uri)
            self.guests[spec.name] = guest
        self._saved.write_text(json.dumps([asdict(spec) for spec in self.specs], indent=2))

    def _read_ids(self) -> dict[str, str]:
        return {spec["name"]: spec["uuid"] for spec in json.loads(self._saved.read_text())} if self._saved.exists() else {}


def make_image(steps: Steps) -> GuestImage:
    """What guests boot, built if it is not there; raises StepFailed."""
    with steps.step("guest image" if GuestImages().is_built else "guest image, built from Debian's kernels"):
        return GuestImages().ensure()
