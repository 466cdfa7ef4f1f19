"""The diagnostic interrupt: ``ComputerSystem.Reset`` with ``Nmi``, one POST and never another."""

from typing import NoReturn

import sushy

from compute_agent.contract.models import PowerState
from compute_agent.drivers.errors import BackendUnavailable, CapabilityUnsupported, OutcomeUnknown, ServerNotRunning, ServerUnsupported
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import Document, as_path, find_document, find_link, find_text, iterate_documents, list_words
from compute_agent.drivers.redfish.errors import (
    NOT_IMPLEMENTED,
    UNAVAILABLE,
    ExchangeError,
    Refused,
    Unreachable,
    deny_access,
    translated,
)
from compute_agent.drivers.redfish.system import SystemFinder, read_state
from compute_agent.drivers.redfish.tasks import follow

_NMI = sushy.ResetType.NMI.value
_RESET = "#ComputerSystem.Reset"
_PARAMETER = "ResetType"
_NOTHING_DONE = (307, 308)
"""Redirects that say that nothing was done; 303 says that it was, and what others mean is each server's own affair."""
_TIMED_OUT = 408
_ENDINGS = (200, 201, 202, 204)


def inject_nmi(visit: Visit, finder: SystemFinder) -> None:
    """Read the power state and what the BMC can do, then send the one POST.

    :raises ServerNotRunning, ServerUnsupported, CapabilityUnsupported, BackendUnavailable: nothing was done.
    :raises OutcomeUnknown: the POST was sent, and nobody knows what came of it.
    """
    with translated(visit.server):
        path, system = finder.read(visit)
        state = read_state(system)
        if state.power_state is not PowerState.RUNNING:
            raise ServerNotRunning(visit.server, f"the server is switched off (the BMC says: {state.reason})")
        target = _find_target(visit, path, system)
    # Past this line the NMI is perhaps sent. The login is that of the reading a moment ago: nothing else is sent, and nothing again.
    try:
        answer = visit.ask_openly("POST", target, {_PARAMETER: _NMI})
        if answer.status not in _ENDINGS:
            raise OutcomeUnknown(visit.server, f"the BMC answered the NMI with {answer.status}, which says neither yes nor no")
        follow(visit, answer)
    except Refused as refusal:
        _refuse(visit.server, refusal)
    except Unreachable as error:
        raise BackendUnavailable(visit.server, str(error)) from error
    except ExchangeError as error:
        raise OutcomeUnknown(visit.server, f"the NMI was sent: {error}") from error


def _find_target(visit: Visit, path: str, system: Document) -> str:
    """Where to POST.

    :raises ServerUnsupported: this BMC does not advertise the reset, or no NMI among its kinds.
    """
    action = find_document(system, "Actions", _RESET)
    if action is None:
        raise ServerUnsupported(visit.server, "this BMC has no reset action, and so no diagnostic interrupt")
    kinds = list_words(action, f"{_PARAMETER}@Redfish.AllowableValues")
    if not kinds:
        described = visit.find(as_path(action.get("@Redfish.ActionInfo")) or find_link(action, "@Redfish.ActionInfo"))
        for parameter in iterate_documents(described, "Parameters"):
            if find_text(parameter, "Name") == _PARAMETER:
                kinds = list_words(parameter, "AllowableValues")
    if _NMI not in kinds:
        raise ServerUnsupported(visit.server, f"this BMC offers no diagnostic interrupt, only {', '.join(kinds) or 'what it does not say'}")
    return as_path(action.get("target")) or f"{path.rstrip('/')}/Actions/ComputerSystem.Reset"


def _refuse(server: str, refusal: Refused) -> NoReturn:
    """What a status of 300 or more means for the one POST.

    :raises DriverError: always
    """
    if refusal.denies_access:
        raise deny_access(server, refusal) from refusal
    if refusal.status == NOT_IMPLEMENTED:
        raise CapabilityUnsupported(server, f"the BMC advertises a diagnostic interrupt and has none ({refusal})") from refusal
    if refusal.status == _TIMED_OUT or (refusal.status >= 500 and refusal.status != UNAVAILABLE):
        raise OutcomeUnknown(server, f"the NMI was sent, and the BMC failed over it ({refusal})") from refusal
    if refusal.status < 400 and refusal.status not in _NOTHING_DONE:
        raise OutcomeUnknown(server, f"the NMI was sent, and the BMC does not say what came of it ({refusal})") from refusal
    if refusal.is_for_ever:
        raise ServerUnsupported(server, f"the BMC refuses the diagnostic interrupt ({refusal})") from refusal
    raise BackendUnavailable(server, f"the BMC did not take the diagnostic interrupt ({refusal})") from refusal
