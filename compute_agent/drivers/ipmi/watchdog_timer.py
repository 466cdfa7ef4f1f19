"""The BMC's watchdog timer (IPMI 2.0, section 27): what its registers mean as a watchdog, and how they are set."""

from dataclasses import dataclass

from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice, WatchdogModel
from compute_agent.drivers.bmc.protocol import TimerState
from compute_agent.drivers.errors import BackendUnavailable, OutcomeUnknown, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.ipmi.asking import change, change_coded, read, read_coded
from compute_agent.drivers.ipmi.completion_codes import DONE, translate_change_refusal, translate_read_refusal
from compute_agent.drivers.ipmi.exchange import Conversation, Request

MODEL = WatchdogModel(
    model="ipmi",
    expiry_actions=(ExpiryAction.NONE, ExpiryAction.RESET, ExpiryAction.POWEROFF, ExpiryAction.POWER_CYCLE, ExpiryAction.INJECT_NMI),
    managed=True,
    hot_plug=True,
    note="The watchdog timer in the machine's BMC. The operating system, or a reset_watchdog_timer action, starts and feeds it. "
    "inject-nmi is its pre-timeout interrupt, which not every BMC has.",
)

_APPLICATION = 0x06
_RESET_TIMER = Request(_APPLICATION, 0x22)
_SET_TIMER = 0x24
_GET_TIMER = Request(_APPLICATION, 0x25)
# Reset Watchdog Timer's own code (table 27-2): nothing was set up since the BMC started.
_NOT_INITIALIZED = 0x80

# Byte 1 of tables 27-3 and 27-5.
_USE_SMS_OS = 4
_DONT_STOP = _RUNNING = 0x40
_DONT_LOG = 0x80
# Byte 2: the action when it expires, and the interrupt some seconds before.
_ACTIONS = {0: ExpiryAction.NONE, 1: ExpiryAction.RESET, 2: ExpiryAction.POWEROFF, 3: ExpiryAction.POWER_CYCLE}
_ACTION_NUMBERS = {action: number for number, action in _ACTIONS.items()}
PRE_TIMEOUT_NMI = 2
_PRE_TIMEOUT_SECONDS = 1
_TICKS_PER_SECOND = 10
# Some BMCs (and OpenIPMI's simulator) leave the present countdown away.
_SHORTEST_ANSWER = 6
# By these a BMC refuses for a while. One that refuses for no reason at all, or one of its maker's, may do so for ever, and its power and
# its diagnostic interrupt are not to wait for that.
_PASSING = frozenset({0xC0, *range(0xC3, 0xC6), *range(0xCE, 0xD4), 0xD5})


@dataclass(frozen=True)
class Registers:
    """What Get Watchdog Timer tells. ``countdown`` is the one that it begins with, in 100 ms."""

    use: int = _USE_SMS_OS
    running: bool = False
    dont_log: bool = False
    action: int = 0
    pre_timeout: int = 0
    pre_timeout_seconds: int = 0
    countdown: int = 0

    @property
    def device(self) -> WatchdogDevice | None:
        """The watchdog that this is; none where it stands still with nothing to do and nothing to count."""
        if not (self.running or self.action or self.pre_timeout or self.countdown):
            return None
        if self.action == 0 and self.pre_timeout == PRE_TIMEOUT_NMI:
            return WatchdogDevice(model=MODEL.model, expiry_action=ExpiryAction.INJECT_NMI)
        return WatchdogDevice(model=MODEL.model, expiry_action=_ACTIONS.get(self.action, f"reserved-{self.action}"))

    @property
    def state(self) -> TimerState:
        return TimerState(self.device, self.running)


def parse_registers(answer: bytes) -> Registers:
    """``answer``: six bytes at least (table 27-5)."""
    use, actions, pre_timeout_seconds, _flags, low, high = answer[:_SHORTEST_ANSWER]
    return Registers(
        use=use & 0x07,
        running=bool(use & _RUNNING),
        dont_log=bool(use & _DONT_LOG),
        action=actions & 0x07,
        pre_timeout=actions >> 4 & 0x07,
        pre_timeout_seconds=pre_timeout_seconds,
        countdown=low | high << 8,
    )


def build_set_request(registers: Registers) -> Request:
    """Set Watchdog Timer (table 27-3) with these. ``running``: one that counts goes on counting, from its beginning, and one that
    stands still stays so; otherwise it is stopped. The flags of former expiries are left as they are: they belong to who reads them.
    """
    first = registers.use | (_DONT_STOP if registers.running else 0) | (_DONT_LOG if registers.dont_log else 0)
    second = registers.action | registers.pre_timeout << 4
    countdown = registers.countdown.to_bytes(2, "little")
    return Request(_APPLICATION, _SET_TIMER, bytes([first, second, registers.pre_timeout_seconds, 0]) + countdown)


def plan_registers(device: WatchdogDevice, present: Registers, countdown: float) -> Registers:
    """What is to be set for ``device``; ``countdown`` in seconds, where the timer has none of its own that is long enough. One that was
    started since it was read, or does not tell that it counts, must not be stopped, so ``running`` is always asked for.
    """
    nmi = device.expiry_action == ExpiryAction.INJECT_NMI
    least = _PRE_TIMEOUT_SECONDS * _TICKS_PER_SECOND if nmi else 0
    ticks = present.countdown if present.countdown > least else min(max(round(countdown * _TICKS_PER_SECOND), least + 1), 0xFFFF)
    return Registers(
        running=True,
        action=0 if nmi else _ACTION_NUMBERS[ExpiryAction(device.expiry_action)],
        pre_timeout=PRE_TIMEOUT_NMI if nmi else 0,
        pre_timeout_seconds=_PRE_TIMEOUT_SECONDS if nmi else 0,
        countdown=ticks,
    )


def find_registers(server: str) -> Conversation[Registers | None]:
    """Get Watchdog Timer (section 27.7); None: this BMC has no timer, or none that it lets this user see.

    :raises BackendUnavailable: nobody can say now.
    """
    response = yield from read_coded(server, _GET_TIMER, "its watchdog timer")
    if response.code == DONE:
        # An answer that is none comes from a BMC that pretends to have a timer.
        return parse_registers(response.data) if len(response.data) >= _SHORTEST_ANSWER else None
    if response.code in _PASSING:
        raise translate_read_refusal(server, "its watchdog timer", response.code)
    return None


def set_timer(server: str, device: WatchdogDevice | None, countdown: float) -> Conversation[TimerState]:
    """Set Watchdog Timer (section 27.6) so that the machine has ``device``; what is so already is not set again, because that would feed
    a timer which counts.

    :raises ServerUnsupported, BackendUnavailable: nothing was changed.
    :raises OutcomeUnknown: no answer came, or the BMC did something else.
    """
    if device is not None and (device.model != MODEL.model or device.expiry_action not in MODEL.expiry_actions):
        raise ServerUnsupported(server, f"a BMC's watchdog timer is no {device.model} with the expiry action {device.expiry_action}")
    present = yield from _read_registers(server)
    wanted = Registers() if device is None else plan_registers(device, present, countdown)
    if present.device == device and (device is None or (present.countdown == wanted.countdown and not present.dont_log)):
        return present.state
    what = "stop and clear its watchdog timer" if device is None else f"set its watchdog timer to {device.expiry_action}"
    try:
        yield from change(server, build_set_request(wanted), what)
    except ServerUnsupported as refusal:
        if device is not None and device.expiry_action == ExpiryAction.INJECT_NMI:
            raise ServerUnsupported(server, f"this BMC's watchdog timer has no pre-timeout NMI; {refusal.reason}") from refusal
        raise
    except ServerNotRunning as refusal:
        raise BackendUnavailable(server, refusal.reason) from refusal
    try:
        state = (yield from _read_registers(server)).state
    except (ServerUnsupported, BackendUnavailable) as failure:
        raise OutcomeUnknown(server, f"the BMC was told to {what}; what it has now cannot be read: {failure.reason}") from failure
    if state.device != device:
        raise OutcomeUnknown(server, f"the BMC said that it did {what}, and has {_describe(state.device)} now")
    return state


def reset_timer(server: str) -> Conversation[None]:
    """Reset Watchdog Timer (section 27.5): counts from its beginning, also where it stood still.

    :raises ServerUnsupported: there is none, or none is set up; nothing was done.
    :raises BackendUnavailable: nothing was done.
    :raises OutcomeUnknown: no answer came.
    """
    what = "reset its watchdog timer"
    present = yield from _read_registers(server)
    if present.device is None or present.countdown == 0:
        # One that begins at zero would fire at once.
        raise ServerUnsupported(server, "the BMC's watchdog timer is not set up; set a watchdog first")
    code = yield from change_coded(server, _RESET_TIMER, what)
    if code == _NOT_INITIALIZED:
        raise ServerUnsupported(server, "the BMC says that its watchdog timer was not set up since it started; set a watchdog first")
    if code != DONE:
        refusal = translate_change_refusal(server, what, code)
        raise BackendUnavailable(server, refusal.reason) if isinstance(refusal, ServerNotRunning) else refusal


def _read_registers(server: str) -> Conversation[Registers]:
    """:raises ServerUnsupported, BackendUnavailable: there is nothing to be read."""
    return parse_registers((yield from read(server, _GET_TIMER, "its watchdog timer", least=_SHORTEST_ANSWER)))


def _describe(device: WatchdogDevice | None) -> str:
    return "no watchdog" if device is None else f"one with the expiry action {device.expiry_action}"
