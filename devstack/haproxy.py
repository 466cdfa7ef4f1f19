"""A private haproxy before several gateways, with the configuration that the documentation shows."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from devstack.ports import Ports, find_free_port
from devstack.services import Service, ServiceOwner
from devstack.steps import NotInstalled, StepFailed

EXAMPLE = Path(__file__).parent.parent / "doc" / "examples" / "haproxy.cfg"
_PATH = "/usr/sbin:/sbin"
_START_TIMEOUT = 20.0
_GRACE = 5.0


class PrivateHaproxy(ServiceOwner):
    """Found by nobody but this object; all its files are in ``directory``.

    :param gateways: the ports of as many gateways as the example has
    :raises NotInstalled: it is not there.
    """

    def __init__(self, directory: Path, gateways: Sequence[Ports]) -> None:
        program = shutil.which("haproxy") or shutil.which("haproxy", path=_PATH)
        if program is None:
            raise NotInstalled("haproxy is not installed")
        self._directory = directory.resolve()
        self._gateways = gateways
        self._port = find_free_port()
        self._config = self._directory / "haproxy.cfg"
        self._service = Service("haproxy", [program, "-db", "-f", str(self._config)], log=self._directory / "haproxy.log")

    @property
    def url(self) -> str:
        """Of all APIs, and of the event stream."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start and wait until it has found an API that answers; raises StepFailed."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._config.write_text(self._build_config())
        self._service.start()
        self._service.wait_ready(self._answers, _START_TIMEOUT, "an API answers through it", advice="read the log")

    def stop(self) -> None:
        self._service.stop(_GRACE)

    def _build_config(self) -> str:
        """The example with addresses of this machine.

        :raises StepFailed: the example has not what is to be replaced.
        """
        text = EXAMPLE.read_text()
        own = {"bind 192.0.2.10:443 ssl crt /etc/haproxy/gateway.pem alpn h2,http/1.1": f"bind 127.0.0.1:{self._port}"}
        for number, ports in enumerate(self._gateways, 1):
            own[f"192.0.2.1{number}:8780"] = f"127.0.0.1:{ports.api}"
            own[f"192.0.2.1{number}:8785"] = f"127.0.0.1:{ports.stream}"
        for theirs, ours in own.items():
            if theirs not in text:
                raise StepFailed(f"{EXAMPLE} has no {theirs}")
            text = text.replace(theirs, ours)
        return text

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/healthcheck", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
