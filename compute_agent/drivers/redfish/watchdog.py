"""A BMC's watchdog timer as Redfish shows it: ``HostWatchdogTimer`` of a system.

Redfish says what happens when it fires, and whether it may be used; the countdown is the operating system's, which also starts it and
feeds it.
"""

import re

from compute_agent.contract.errors import Code
from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice, WatchdogModel
from compute_agent.drivers.bmc.protocol import TimerState
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerUnsupported
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import Document, find, find_document, find_text, list_words
from compute_agent.drivers.redfish.errors import ExchangeError, NoAnswer, Refused, deny_access, translate, translated
from compute_agent.drivers.redfish.tasks import follow

MODEL = "redfish"
_TIMER = "HostWatchdogTimer"
_NOTHING = "None"
_INTERRUPT = "DiagnosticInterrupt"
_WORDS = {
    ExpiryAction.NONE: _NOTHING,
    ExpiryAction.RESET: "ResetSystem",
    ExpiryAction.POWEROFF: "PowerDown",
    ExpiryAction.POWER_CYCLE: "PowerCycle",
    ExpiryAction.INJECT_NMI: _NOTHING,
}
"""What each expiry action is as ``TimeoutAction``; an NMI is the warning before a timeout that does nothing."""
_ACTIONS = {word: action for action, word in _WORDS.items() if action is not ExpiryAction.INJECT_NMI}
_CHANGED_MEANWHILE = 412
_FAILING = 500

WATCHDOG_MODEL = WatchdogModel(
    model=MODEL,
    expiry_actions=tuple(_WORDS),
    managed=True,
    hot_plug=True,
    note="The watchdog timer of a server's BMC, where that shows one over Redfish. The server's operating system starts it, feeds it, and "
    "says how long it counts; which of the expiry actions there are depends on the BMC.",
)


def read_timer(system: Document) -> TimerState | None:
    """None: this BMC shows none."""
    timer = find_document(system, _TIMER)
    if timer is None:
        return None
    if find(timer, "FunctionEnabled") is not True:
        return TimerState()
    return TimerState(WatchdogDevice(model=MODEL, expiry_action=_read_action(timer)), find_text(timer, "Status", "State") == "Enabled")


def _read_action(timer: Document) -> str:
    """Our word, else the BMC's own in lower case."""
    word = find_text(timer, "TimeoutAction") or _NOTHING
    if word == _NOTHING and find_text(timer, "WarningAction") == _INTERRUPT:
        return ExpiryAction.INJECT_NMI
    return _ACTIONS.get(word) or re.sub(r"[^a-z0-9_-]", "", word.lower()).lstrip("_-")[:32] or "unknown"


def set_timer(visit: Visit, path: str, device: WatchdogDevice | None) -> TimerState:
    """Make it ``device``; None: switch it off. Whether it counts, nobody changes here: the operating system starts it.

    :raises ServerUnsupported: there is none, or not with this expiry action; nothing was changed.
    :raises BackendUnavailable: nothing was changed.
    :raises OutcomeUnknown: no answer came.
    """
    server = visit.server
    with translated(server):
        etag, system = _read(visit, path)
    state = read_timer(system)
    wanted = _make_change(server, system, device)
    if state is None or state.device == device:
        return state or TimerState()
    try:
        try:
            _change(visit, path, wanted, etag)
        except Refused as refusal:
            if refusal.status != _CHANGED_MEANWHILE:
                raise
            _change(visit, path, wanted, _read(visit, path)[0])
    except NoAnswer as error:
        raise OutcomeUnknown(server, str(error)) from error
    except Refused as refusal:
        raise _translate_refusal(server, refusal) from refusal
    except ExchangeError as error:
        raise translate(server, error) from error
    try:
        changed = read_timer(visit.get(path))
    except ExchangeError as error:
        raise OutcomeUnknown(server, f"the BMC took the change, and what it made of it cannot be read: {error}") from error
    if changed is None or changed.device != device:
        raise BackendUnavailable(server, "the BMC took the change and has not made it", Code.WATCHDOG_NOT_CHANGED)
    return changed


def _read(visit: Visit, path: str) -> tuple[str | None, Document]:
    answer = visit.ask("GET", path)
    return answer.etag or find_text(answer.document, "@odata.etag"), answer.document


def _change(visit: Visit, path: str, wanted: dict[str, object], etag: str | None) -> None:
    follow(visit, visit.ask("PATCH", path, {_TIMER: wanted}, etag))


def _make_change(server: str, system: Document, device: WatchdogDevice | None) -> dict[str, object]:
    """What to write.

    :raises ServerUnsupported: the BMC has no such timer.
    """
    timer = find_document(system, _TIMER)
    if device is None:
        return {"FunctionEnabled": False}
    if timer is None:
        raise ServerUnsupported(server, "this server's BMC shows no watchdog timer over Redfish")
    action = next((action for action in _WORDS if action == device.expiry_action), None)
    if device.model != MODEL or action is None:
        raise ServerUnsupported(server, f"a BMC's watchdog timer over Redfish is no {device.model} with {device.expiry_action}")
    wanted: dict[str, object] = {"FunctionEnabled": True, "TimeoutAction": _WORDS[action]}
    # A BMC without the optional property has no interrupt to give.
    if "WarningAction" in timer:
        wanted["WarningAction"] = _INTERRUPT if action is ExpiryAction.INJECT_NMI else _NOTHING
    elif action is ExpiryAction.INJECT_NMI:
        raise ServerUnsupported(server, "the watchdog timer of this server's BMC cannot send an NMI before it fires")
    for name in ("TimeoutAction", "WarningAction"):
        offered = list_words(timer, f"{name}@Redfish.AllowableValues")
        if offered and name in wanted and wanted[name] not in offered:
            raise ServerUnsupported(server, f"the watchdog timer of this server's BMC offers {', '.join(offered)}, and not {wanted[name]}")
    return wanted


def _translate_refusal(server: str, refusal: Refused) -> DriverError:
    if refusal.denies_access:
        return deny_access(server, refusal)
    if refusal.is_for_ever:
        return ServerUnsupported(server, f"the BMC does not let its watchdog timer be changed so ({refusal})")
    if refusal.status >= _FAILING:
        return OutcomeUnknown(server, f"the BMC failed over the change ({refusal})")
    return BackendUnavailable(server, str(refusal))
