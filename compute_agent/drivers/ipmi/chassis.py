"""The machine itself: its power, and the diagnostic interrupt (IPMI 2.0, section 28)."""

from dataclasses import dataclass

from compute_agent.contract.diagnostics import Health
from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.ipmi.asking import change_coded, read
from compute_agent.drivers.ipmi.completion_codes import DONE, is_unsupported, translate_change_refusal
from compute_agent.drivers.ipmi.exchange import Conversation, Request

_CHASSIS = 0x00
_GET_CHASSIS_STATUS = Request(_CHASSIS, 0x01)
# Table 28-4: control 4 pulses the diagnostic interrupt. It is *command* 4 that would light the identify lamp.
_DIAGNOSTIC_INTERRUPT = Request(_CHASSIS, 0x02, bytes([0x04]), once=True)

# Table 28-3, by bit. What is wrong with the power now:
_POWER_FAULTS = {1: "power overload", 2: "interlock", 3: "power fault", 4: "power control fault"}
# Why the power last went:
_LAST_POWER_EVENTS = {0: "AC failed", 1: "power overload", 2: "interlock", 3: "power fault"}
_CHASSIS_FAULTS = {2: "drive fault", 3: "cooling fault"}


@dataclass(frozen=True)
class Chassis:
    """A chassis status. ``faults`` are in force now, ``last_power_event`` is why the power went the last time."""

    on: bool
    faults: tuple[str, ...] = ()
    last_power_event: tuple[str, ...] = ()

    @property
    def power_state(self) -> PowerState:
        return PowerState.RUNNING if self.on else PowerState.SHUTDOWN

    @property
    def word(self) -> str:
        return "on" if self.on else "off"

    @property
    def reason(self) -> str:
        """``on``, ``off``, or with what the BMC says of it: ``off: power fault``."""
        why = self.faults if self.on else tuple(dict.fromkeys((*self.last_power_event, *self.faults)))
        return f"{self.word}: {', '.join(why)}" if why else self.word

    @property
    def health(self) -> Health:
        return Health.CRITICAL if self.faults else Health.OK


def read_chassis(server: str) -> Conversation[Chassis]:
    """Get Chassis Status (section 28.2).

    :raises BackendUnavailable: it cannot be read.
    """
    try:
        answer = yield from read(server, _GET_CHASSIS_STATUS, "the machine's power", least=3)
    except ServerUnsupported as refusal:
        raise BackendUnavailable(server, refusal.reason) from refusal
    return parse_chassis(answer)


def parse_chassis(answer: bytes) -> Chassis:
    """``answer``: three bytes at least."""
    power, last_event, misc = answer[:3]
    return Chassis(
        on=bool(power & 1),
        faults=(*_name_bits(power, _POWER_FAULTS), *_name_bits(misc, _CHASSIS_FAULTS)),
        last_power_event=_name_bits(last_event, _LAST_POWER_EVENTS),
    )


def inject_nmi(server: str) -> Conversation[None]:
    """Chassis Control, Pulse Diagnostic Interrupt (section 28.3), a single time, and only of a machine that is on: some BMCs answer
    "done" for one that is off.

    :raises ServerNotRunning, ServerUnsupported, BackendUnavailable: nothing was done.
    :raises OutcomeUnknown: no answer came, or one that does not say what was done.
    """
    chassis = yield from read_chassis(server)
    if not chassis.on:
        raise ServerNotRunning(server, f"the machine is switched off; its BMC says: {chassis.reason}")
    code = yield from change_coded(server, _DIAGNOSTIC_INTERRUPT, "send the diagnostic interrupt")
    if code == DONE:
        return
    refusal = translate_change_refusal(server, "send the diagnostic interrupt", code)
    if is_unsupported(code):
        raise ServerUnsupported(server, f"this BMC has no diagnostic interrupt; {refusal.reason}")
    if refusal.code is Code.FORBIDDEN:
        raise BackendUnavailable(server, f"the BMC's user may not send the diagnostic interrupt; {refusal.reason}", Code.FORBIDDEN)
    raise refusal


def _name_bits(byte: int, names: dict[int, str]) -> tuple[str, ...]:
    return tuple(name for bit, name in names.items() if byte >> bit & 1)
