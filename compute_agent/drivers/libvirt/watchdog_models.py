"""Which watchdogs QEMU has, and which of them a domain can be given. Pure."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice, WatchdogModel

I6300ESB, IB700, DIAG288, ITCO = "i6300esb", "ib700", "diag288", "itco"
OMITTED_ACTION = ExpiryAction.RESET.value
"""What libvirt does where the XML has no action."""
_ALL_ACTIONS = tuple(action.value for action in ExpiryAction if action is not ExpiryAction.POWER_CYCLE)
"""libvirt's whole list (domain XML format, "Watchdog devices"): a virtual machine has no power that could be cycled."""

MODELS = (
    WatchdogModel(
        model=I6300ESB,
        expiry_actions=_ALL_ACTIONS,
        managed=True,
        hot_plug=True,
        note="A PCI card for x86 (machine types pc and q35), POWER (pseries) and ARM (virt). A running server gets or loses it at once "
        "where a slot for a conventional PCI card is free and its guest lets go of it, otherwise at its next start.",
    ),
    WatchdogModel(
        model=IB700,
        expiry_actions=_ALL_ACTIONS,
        managed=True,
        hot_plug=False,
        note="An ISA card for x86 (machine types pc and q35). A running server gets or loses it at its next start.",
    ),
    WatchdogModel(
        model=DIAG288,
        expiry_actions=_ALL_ACTIONS,
        managed=False,
        hot_plug=False,
        note="Belongs to s390 machines only. crashcart shows it and does not manage it.",
    ),
    WatchdogModel(
        model=ITCO,
        expiry_actions=_ALL_ACTIONS,
        managed=False,
        hot_plug=False,
        note="Part of the chipset of q35 machines, which libvirt shows from 9.1 on. crashcart shows it and does not manage it.",
    ),
)
BY_WORD = {model.model: model for model in MODELS}

_PC, _POWER, _ARM = ("pc", "q35"), ("pseries",), ("virt",)
_PLACES: dict[str, dict[str, tuple[str, ...]]] = {
    I6300ESB: {"x86_64": _PC, "i686": _PC, "ppc64": _POWER, "ppc64le": _POWER, "aarch64": _ARM, "armv7l": _ARM},
    IB700: {"x86_64": _PC, "i686": _PC},
}
_QEMU_TYPES = ("qemu", "kvm", "hvf")
_SEVERAL_SINCE = 9_001_000
_INJECT_NMI_SINCE = 1_002_017


@dataclass(frozen=True)
class Machine:
    """What a domain is: libvirt's words of its hypervisor, its architecture and its machine type."""

    hypervisor: str = ""
    architecture: str = ""
    machine: str = ""

    @property
    def family(self) -> str:
        """``pc`` of ``pc-i440fx-7.2``, ``q35`` of ``pc-q35-rhel9.2.0``, ``pseries`` of ``pseries-7.2``."""
        if self.machine.startswith("pc-q35"):
            return "q35"
        return self.machine.partition("-")[0]


def read_machine(domain: Element) -> Machine:
    """Of a domain's XML, as far as it says."""
    kind = domain.find("os/type")
    if kind is None:
        return Machine(hypervisor=domain.get("type", ""))
    return Machine(domain.get("type", ""), kind.get("arch", ""), kind.get("machine", ""))


def list_models_for(machine: Machine, others: tuple[WatchdogDevice, ...]) -> tuple[str, ...]:
    """What it can be given; none where it has another device that stands in the way."""
    if machine.hypervisor not in _QEMU_TYPES or find_obstacle(others) is not None:
        return ()
    return tuple(model for model, places in _PLACES.items() if machine.family in places.get(machine.architecture, ()))


def find_obstacle(others: tuple[WatchdogDevice, ...]) -> WatchdogDevice | None:
    """A device beside which there can be no managed one. The chipset's own stands in nobody's way."""
    return next((device for device in others if device.model != ITCO), None)


def find_refusal(device: WatchdogDevice, machine: Machine, others: tuple[WatchdogDevice, ...], libvirt_version: int) -> str | None:
    """Why this domain cannot be given this device, in a sentence; None when it can."""
    model = BY_WORD.get(device.model)
    if model is None:
        return f"libvirt's watchdogs are {', '.join(BY_WORD)}, not {device.model}"
    if not model.managed:
        return f"a watchdog {device.model} cannot be set. {model.note}"
    if device.expiry_action not in model.expiry_actions:
        return f"a watchdog {device.model} can do {', '.join(model.expiry_actions)}, not {device.expiry_action}"
    obstacle = find_obstacle(others)
    if obstacle is not None:
        return say_obstacle(obstacle)
    if device.model not in list_models_for(machine, others):
        return (
            f"a {machine.hypervisor} server of machine type {machine.machine} ({machine.architecture}) has no {device.model}. {model.note}"
        )
    if others and libvirt_version < _SEVERAL_SINCE:
        return "this libvirt knows one watchdog per server only, and the server has one in its chipset"
    if device.expiry_action == ExpiryAction.INJECT_NMI and libvirt_version < _INJECT_NMI_SINCE:
        return "this libvirt is too old for the expiry action inject-nmi"
    return None


def say_obstacle(obstacle: WatchdogDevice) -> str:
    """Why nothing is changed on a server that has this one as well."""
    if BY_WORD.get(obstacle.model, BY_WORD[DIAG288]).managed:
        return f"the server has several watchdogs, among them a second one ({obstacle.model}); crashcart manages one per server"
    return f"the server has a watchdog {obstacle.model}, which crashcart does not manage"
