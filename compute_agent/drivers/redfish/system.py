"""The machine itself: which ``ComputerSystem`` behind an address it is, and what that says of its power."""

from datetime import datetime

from compute_agent.contract.models import PowerState
from compute_agent.drivers.bmc.protocol import MachineState
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import Document, as_path, find_link, find_moment, find_text, last_segment, list_links
from compute_agent.drivers.redfish.errors import Refused, Unusable
from compute_agent.drivers.redfish.login import ROOT
from compute_agent.drivers.redfish.watchdog import read_timer

_SYSTEMS = "/redfish/v1/Systems"
_POWER = {
    "On": PowerState.RUNNING,
    "Off": PowerState.SHUTDOWN,
    "PoweringOn": PowerState.SHUTDOWN,
    "PoweringOff": PowerState.RUNNING,
    "Paused": PowerState.RUNNING,
}
"""On its way it is what it still is: one that is only about to be switched on takes no NMI."""
_NAMED_IN_ERRORS = 8


class SystemFinder:
    """Finds the system once and reads it from then on. Several threads may find it at the same time: they find the same."""

    def __init__(self, wanted: str | None) -> None:
        """``wanted``: its path or its identity; None: the only one."""
        self._wanted = wanted
        self._path = as_path(wanted) if wanted is not None and wanted.startswith("/") else None

    def read(self, visit: Visit) -> tuple[str, Document]:
        """The system's path and document, asked now.

        :raises ExchangeError: the BMC did not answer, or has not the system that is wanted.
        """
        path = self._path or self._find(visit)
        try:
            document = visit.get(path)
        except Refused as refusal:
            if refusal.denies_access or self._wanted == path:
                raise
            self._path = None
            path = self._find(visit)
            document = visit.get(path)
        self._path = path
        return path, document

    def _find(self, visit: Visit) -> str:
        systems = find_link(visit.get(ROOT), "Systems") or _SYSTEMS
        paths = list_links(visit.get(systems), "Members")
        if self._wanted is not None:
            found = [path for path in paths if last_segment(path).lower() == self._wanted.lower()]
            if found:
                return found[0]
            raise Unusable(f"the BMC has no system {self._wanted!r}, only {_name(paths)}")
        if len(paths) != 1:
            raise Unusable(f"the BMC has {len(paths)} systems ({_name(paths)}): the inventory must say which, with the key 'system'")
        return paths[0]


def _name(paths: list[str]) -> str:
    names = [last_segment(path) for path in paths]
    return ", ".join(names[:_NAMED_IN_ERRORS] + ["…"] * (len(names) > _NAMED_IN_ERRORS)) or "none"


def read_state(system: Document) -> MachineState:
    """What changes from minute to minute.

    :raises Unusable: the BMC does not say whether the machine is on.
    """
    word = find_text(system, "PowerState")
    power_state = _POWER.get(word or "")
    if word is None or power_state is None:
        raise Unusable("the BMC does not say whether the server is on" if word is None else f"the BMC calls the power state {word!r}")
    return MachineState(
        power_state=power_state,
        reason=word,
        started_at=_find_start(system) if power_state is PowerState.RUNNING else None,
        timer=read_timer(system),
    )


def _find_start(system: Document) -> datetime | None:
    """When the BMC saw the last reset. By its own clock, however wrong that is: by ours it would be another time at each reading."""
    return find_moment(system, "LastResetTime")
