"""``sushy-emulator`` as a BMC: independent code that speaks Redfish over TLS with HTTP Basic, for guests of a libvirtd or for nobody."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import bcrypt
import trustme

from devstack.ports import find_free_port
from devstack.services import Service

_START_TIMEOUT = 60.0
_EMULATOR = ("-m", "sushy_tools.emulator.main")
_CHEAP_ROUNDS = 4
"""Each request proves the password anew: at the usual cost the emulator would do nothing else."""
_CERTIFIED_FOR = "127.0.0.1"


class SushyEmulator:
    """One emulator on a free port of the loopback interface, all its files in ``directory``.

    ``libvirt_uri`` and ``servers``: the domains that it shows, by their UUIDs; without a URI it has one invented machine that is on, whose
    driver advertises an NMI and answers 501 to it. ``program``: what Python runs in place of the emulator's own main program.
    """

    def __init__(
        self,
        directory: Path,
        *,
        libvirt_uri: str = "",
        servers: Sequence[str] = (),
        program: Sequence[str] = _EMULATOR,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.username = "operator"
        self.password = secrets.token_urlsafe(12)
        self.ca_file = self.directory / "ca.pem"
        self.password_file = self.directory / "password"
        self.log = self.directory / "emulator.log"
        self._config = self.directory / "emulator.conf.py"
        self._libvirt_uri = libvirt_uri
        self._servers = list(servers)
        self.port = find_free_port()
        argv = [sys.executable, *program, "--config", str(self._config)]
        self._service = Service("sushy-emulator", argv, dict(os.environ) | (environment or {}), self.log)

    @property
    def is_running(self) -> bool:
        return self._service.is_running

    def start(self, timeout: float = _START_TIMEOUT) -> None:
        """Start and wait until it takes connections; raises StepFailed. Again after a stop: on the same port, with the same password."""
        if not self._config.exists():
            self._write_files()
        self._service.start()
        self._service.wait_ready(self._answers, timeout, "it takes connections on its port")

    def stop(self) -> None:
        """End it; its files stay."""
        self._service.stop(grace=2.0)

    def kill(self) -> None:
        """kill -9."""
        self._service.kill()

    def freeze(self) -> None:
        """SIGSTOP: the port takes connections and nothing answers."""
        self._service.freeze()

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        self._service.thaw()

    def _write_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        certificate = authority.issue_cert(_CERTIFIED_FOR)
        authority.cert_pem.write_to_path(str(self.ca_file))
        certificate.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(self.directory / "cert.pem"))
        self._write_secret(self.password_file, self.password)
        digest = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(_CHEAP_ROUNDS)).decode()
        self._write_secret(self.directory / "htpasswd", f"{self.username}:{digest}\n")
        settings: dict[str, object] = {
            "LISTEN_IP": "127.0.0.1",
            "LISTEN_PORT": self.port,
            "SSL_CERT": str(self.directory / "cert.pem"),
            "SSL_KEY": str(self.directory / "key.pem"),
            "AUTH_FILE": str(self.directory / "htpasswd"),
            "STATE_DIR": str(self.directory),
        }
        if self._libvirt_uri:
            settings |= {"LIBVIRT_URI": self._libvirt_uri, "ALLOWED_INSTANCES": self._servers}
        else:
            machine = {"uuid": secrets.token_hex(16), "name": "invented", "power_state": "On", "nics": [{"mac": "52:54:00:00:00:01"}]}
            settings |= {"FAKE_DRIVER": True, "FAKE_SYSTEMS": [machine]}
        self._config.write_text("".join(f"SUSHY_EMULATOR_{name} = {value!r}\n" for name, value in settings.items()))

    def _write_secret(self, path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True
