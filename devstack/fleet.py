"""The machines of one stack whose agent has the driver for bare metal: a simulated BMC each, with a guest or with nothing behind it."""

from __future__ import annotations

import json
import uuid as uuids
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from devstack.bare_metal import BareMetalMachine
from devstack.bmc_inventory import InventoryEntry, write_inventory
from devstack.guest_image import GuestImage
from devstack.guests import GuestKind
from devstack.ipmi_sim import ADMINISTRATOR, BmcUser, IpmiSim, SimulatedBmc
from devstack.stack_config import PROJECT, USER, Options


@dataclass(frozen=True)
class MachineSpec:
    """A machine that a stack shall have. Without a ``kind`` of guest it is nothing but its BMC, and whether it is on. ``whole_watchdog`` is
    that of `IpmiSim`.

    ``login`` is whom the agent's inventory names, with further fields of its entry in ``options``. Without a uuid it keeps the one of the
    last start in the same directory.
    """

    name: str
    kind: GuestKind | None = GuestKind.PANICKING
    running: bool = True
    uuid: str = ""
    login: BmcUser = ADMINISTRATOR
    options: dict[str, object] = field(default_factory=dict)
    whole_watchdog: bool = False


class Machine:
    """One of them. ``bare_metal`` is None for one without a guest."""

    def __init__(self, spec: MachineSpec, directory: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.uuid = spec.uuid
        watchdog = spec.whole_watchdog
        self.bare_metal = BareMetalMachine(directory, name=spec.name, kind=spec.kind, whole_watchdog=watchdog) if spec.kind else None
        self.simulator = self.bare_metal.simulator if self.bare_metal else IpmiSim(directory / "bmc", whole_watchdog=watchdog)

    @property
    def bmc(self) -> SimulatedBmc:
        return self.simulator.bmc

    def start(self, image: GuestImage | None) -> None:
        """Start the BMC and switch the machine on, if it shall run; raises StepFailed. A guest is ready then."""
        self.simulator.forget()
        if self.bare_metal is None:
            self.bmc.set_power(self.spec.running)
            self.simulator.start()
            return
        assert image is not None, "a machine with a guest needs an image"
        self.bare_metal.start(image, power_on=self.spec.running)
        if self.spec.running:
            self.bare_metal.wait_ready()

    def end(self) -> None:
        """End the BMC, and the machine with it."""
        if self.bare_metal is not None:
            self.bare_metal.end()
        else:
            self.simulator.stop()

    def describe(self, image: GuestImage | None) -> str:
        """What a step says of its start."""
        if self.spec.kind is None or image is None:
            return f"machine {self.name} (a BMC alone)"
        return f"machine {self.name} ({self.spec.kind}, {image.accelerator}) {'booted' if self.spec.running else 'is off'}"

    def make_entry(self) -> InventoryEntry:
        """How the agent's inventory names it."""
        options = {"privilege": self.spec.login.privilege, **self.spec.options}
        login, bmc = self.spec.login, self.bmc
        return InventoryEntry(self.uuid, self.name, "ipmi", bmc.address, bmc.port, login.name, login.password, PROJECT, USER, options)


class Fleet:
    """All machines of a stack; the same directory always means the same ones, whichever command made this object.

    ``further`` are entries of the inventory whose machines are the caller's own.
    """

    def __init__(self, state_dir: Path, specs: Iterable[MachineSpec], further: Iterable[InventoryEntry] = ()) -> None:
        self._directory = state_dir.resolve() / "machines"
        self._saved = _name_saved(state_dir)
        self._further = list(further)
        kept = {spec.name: spec.uuid for spec in find_saved_machines(state_dir) or ()}
        chosen = [replace(spec, uuid=spec.uuid or kept.get(spec.name) or str(uuids.uuid4())) for spec in specs]
        self.machines = {spec.name: Machine(spec, self._directory / spec.name) for spec in chosen}

    @property
    def inventory(self) -> Path:
        """The file that the agent reads."""
        return self._directory / "bmc_inventory.yaml"

    @property
    def has_guests(self) -> bool:
        return any(machine.bare_metal for machine in self.machines.values())

    @property
    def agent_options(self) -> Options:
        return {"agent": {"driver": "bmc"}, "bmc": {"inventory": self.inventory}}

    def list_parts(self) -> list[tuple[str, int | None]]:
        """The process of each BMC with its pid, None for one that does not run."""
        return [
            (f"ipmi_sim of {name}", machine.simulator.pid if machine.simulator.is_running else None)
            for name, machine in self.machines.items()
        ]

    def write_files(self) -> None:
        """Write the inventory, and what a later command needs to find the machines; raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        specs = [
            {"name": spec.name, "kind": spec.kind, "running": spec.running, "uuid": spec.uuid}
            for spec in (machine.spec for machine in self.machines.values())
        ]
        self._saved.write_text(json.dumps(specs, indent=2))
        write_inventory(self.inventory, [*(machine.make_entry() for machine in self.machines.values()), *self._further])

    def end(self) -> None:
        """End every BMC and every machine."""
        for machine in self.machines.values():
            machine.end()


def find_saved_machines(state_dir: Path) -> list[MachineSpec] | None:
    """Those of the stack that was last started in this directory; None when it was none of bare metal."""
    saved = _name_saved(state_dir)
    if not saved.exists():
        return None
    return [
        MachineSpec(spec["name"], GuestKind(spec["kind"]) if spec["kind"] else None, spec["running"], spec["uuid"])
        for spec in json.loads(saved.read_text())
    ]


def forget_saved_machines(state_dir: Path) -> None:
    """The stack in this directory is none of bare metal from now on."""
    _name_saved(state_dir).unlink(missing_ok=True)


def _name_saved(state_dir: Path) -> Path:
    return state_dir.resolve() / "machines" / "machines.json"
