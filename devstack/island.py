"""A network namespace on a cable that can be pulled: packets are lost then, as between two machines, and nobody is told."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from devstack.steps import StepFailed

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_NETWORK = ipaddress.ip_network("198.18.0.0/15")
"""For tests of networks (RFC 2544): no machine has an address of it."""
_PROBE = "crashcart-probe"


class Island:
    """`outside` is the address at which processes inside reach this machine; nothing else is in reach, the machine's loopback neither.

    Between the two lies a bridge in a namespace of its own, so that both ends keep their carrier, addresses and routes while it is cut.

    :param number: tells it from all others of this machine, 0 to 65535: a port that is one's own, for example
    """

    def __init__(self, number: int) -> None:
        self._name = f"crashcart-{number}"
        self._wire = f"{self._name}-wire"
        self._interface = f"crashcart{number}"
        self.outside = str(_NETWORK[2 * number])
        self._inside = str(_NETWORK[2 * number + 1])

    @staticmethod
    def is_available() -> bool:
        """True where this process may make namespaces and links: as root with CAP_NET_ADMIN and CAP_SYS_ADMIN, and iproute2."""
        if os.geteuid() != 0 or shutil.which("ip", path=_PATH) is None or shutil.which("nsenter") is None:
            return False
        name = f"{_PROBE}-{os.getpid()}"
        try:
            _run("netns", "add", name)
            _run("-n", name, "link", "add", "bridge", "type", "bridge")
        except StepFailed:
            return False
        finally:
            _try("netns", "del", name)
        return True

    @property
    def prefix(self) -> list[str]:
        """What a command line begins with whose process is to be inside; it stays the same process."""
        return ["nsenter", f"--net=/run/netns/{self._name}", "--"]

    @property
    def exists(self) -> bool:
        return (Path("/run/netns") / self._name).exists()

    def start(self) -> None:
        """Make it anew; raises StepFailed."""
        self.end()
        for name in (self._name, self._wire):
            _run("netns", "add", name)
        _run("link", "add", self._interface, "type", "veth", "peer", "name", "outside", "netns", self._wire)
        _run("-n", self._name, "link", "add", "eth0", "type", "veth", "peer", "name", "inside", "netns", self._wire)
        _run("-n", self._wire, "link", "add", "bridge", "type", "bridge")
        for link in ("outside", "inside"):
            _run("-n", self._wire, "link", "set", link, "master", "bridge", "up")
        _run("-n", self._wire, "link", "set", "bridge", "up")
        _run("address", "add", f"{self.outside}/31", "dev", self._interface)
        _run("link", "set", self._interface, "up")
        _run("-n", self._name, "address", "add", f"{self._inside}/31", "dev", "eth0")
        for link in ("eth0", "lo"):
            _run("-n", self._name, "link", "set", link, "up")

    def cut(self) -> None:
        """From now on every packet is lost, in both directions."""
        _run("-n", self._wire, "link", "set", "inside", "nomaster")

    def heal(self) -> None:
        """As in the beginning."""
        _run("-n", self._wire, "link", "set", "inside", "master", "bridge")

    def end(self) -> None:
        """Take it away, if it is there; processes inside are then without any network."""
        for name in (self._name, self._wire):
            if (Path("/run/netns") / name).exists():
                _run("netns", "del", name)
        _try("link", "del", self._interface)  # else the kernel takes it away a little later

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _run(*arguments: str) -> None:
    done = _try(*arguments)
    if done.returncode != 0:
        raise StepFailed(f"ip {' '.join(arguments)}: {done.stderr.strip()}", advice="run without networks of their own")


def _try(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _PATH}
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=30)
