"""Which process a domain runs in, and since when: another one has none of what was noted of the last."""

from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import libvirt


def find_run_start(pid_file_directory: Path | None, name: str) -> datetime | None:
    """When QEMU was started: libvirtd writes its pid file once in its life. libvirt has no call that says it."""
    if pid_file_directory is None:
        return None
    try:
        written = (pid_file_directory / f"{name}.pid").stat().st_mtime
    except OSError:  # another way of running libvirtd, or not allowed to look: then it is not known
        return None
    return datetime.fromtimestamp(written, UTC)


def find_run(domain: libvirt.virDomain, root: Element, pid_file_directory: Path | None) -> str:
    """Names the running process: its number at this libvirtd's host, and its start where that is known.

    libvirtd counts from 1 again after a restart of the host: memory that was saved before is often restored under the same number.

    :param root: the domain's live XML
    :raises libvirt.libvirtError: libvirt did not answer.
    """
    started_at = find_run_start(pid_file_directory, root.findtext("name", ""))
    start = "" if started_at is None else f"/{started_at.isoformat()}"
    return f"{domain.connect().getHostname()}/{root.get('id', '')}{start}"
