"""Finds the dump that libvirtd wrote of a domain whose watchdog fired: no event names it, only its file name tells.

libvirtd calls it ``ID-NAME-YYYY-MM-DD-HH:MM:SS``: the number of the running domain, the first 20 characters of its name, and the local time
at which the dump was begun.
"""

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import libvirt

from compute_agent.drivers.base import ExpiryDumps
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound
from compute_agent.drivers.libvirt.calls import CallConnections
from compute_agent.drivers.libvirt.errors import translate_read_error
from compute_agent.drivers.libvirt.servers import get_domain
from compute_agent.drivers.models import FoundDump

_NAME_LENGTH = 20
_TIME_FORMAT = "%Y-%m-%d-%H:%M:%S"
_FILE_NAME = re.compile(r"(?P<number>\d+)-(?P<name>.+)-(?P<time>\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d)", re.DOTALL)
_PRECISION = timedelta(seconds=1)
_LATENESS = timedelta(seconds=1)
"""How long after libvirtd has begun the dump the event of the firing comes here at the latest, on a busy host."""


class LibvirtExpiryDumps(ExpiryDumps):
    """:param directory: libvirtd's ``auto_dump_path``, on this host"""

    def __init__(self, connections: CallConnections, directory: Path) -> None:
        self._connections = connections
        self._directory = directory

    def find_expiry_dump(self, server: str, since: datetime, until: datetime | None = None) -> FoundDump | None:
        try:
            number, name = self._find_name(server)
        except ServerNotFound:
            return None  # its name is gone with it
        dumps = [
            (begun, written, dump)
            for begun, written, dump in self._list_dumps(server, number, name)
            if begun > since - _PRECISION - _LATENESS and (until is None or begun <= until - _PRECISION)
        ]
        return max(dumps)[2] if dumps else None

    def _find_name(self, server: str) -> tuple[int | None, str]:
        """The number of the running domain, None when it is off, and its name.

        :raises ServerNotFound, BackendUnavailable: libvirt does not say.
        """
        with self._connections.borrow() as connection:
            domain = get_domain(connection, server)
            try:
                return (domain.ID() if domain.isActive() else None), domain.name()
            except libvirt.libvirtError as error:
                raise translate_read_error(error, server) from error

    def _list_dumps(self, server: str, number: int | None, name: str) -> Iterator[tuple[datetime, float, FoundDump]]:
        """When each was begun and when it was written last."""
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    found = _FILE_NAME.fullmatch(entry.name)
                    if found is None or found["name"] != name[:_NAME_LENGTH] or number not in (None, int(found["number"])):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    begun = _read_time(found["time"], status.st_mtime)
                    if entry.is_file(follow_symlinks=False) and begun is not None:
                        yield begun, status.st_mtime, FoundDump(entry.path, status.st_size)
        except OSError as error:
            raise BackendUnavailable(server, f"cannot look into {self._directory}: {error.strerror}") from error


def _read_time(text: str, written: float) -> datetime | None:
    """When it was begun: of the two hours to which the end of summer time gives one name, the later that is not after its last byte."""
    try:
        local = datetime.strptime(text, _TIME_FORMAT)
    except ValueError:
        return None
    times = [local.replace(fold=fold).astimezone() for fold in (0, 1)]
    possible = [time for time in times if time.timestamp() <= written + _PRECISION.total_seconds()]
    return max(possible, default=times[0])
