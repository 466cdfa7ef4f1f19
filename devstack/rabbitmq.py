"""A private RabbitMQ node: own name, HOME, cookie, epmd and ports, all on 127.0.0.1, no service of the machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compute_agent.contract.accounts import GATEWAY_ACCOUNT, build_agent_account
from devstack.broker_definitions import VHOST, write_definitions
from devstack.ports import Ports
from devstack.services import Service
from devstack.steps import StepFailed

if TYPE_CHECKING:
    from devstack.certificates import TlsFiles

USER = "crashcart"
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")  # those in /usr/sbin switch to the rabbitmq user and its directories
_BOOT_TIMEOUT = 90.0
_STOP_GRACE = 20.0
_CTL_TIMEOUT = 60.0
_WATERMARK = "0.6"


class PrivateRabbitMQ:
    """One broker under `state_dir`; found again by any later object with the same directory and ports."""

    def __init__(
        self,
        state_dir: Path,
        ports: Ports,
        *,
        hosts: Sequence[str] = (),
        cluster: Sequence[Ports] = (),
        tls: TlsFiles | None = None,
    ) -> None:
        """
        :param hosts: whose agents have accounts of their own, beside the gateway's and the one that may do everything
        :param cluster: the ports of all nodes that are to be one broker, this one's among them; the first one's epmd serves all of them
        :param tls: listens with this certificate on ``ports.amqps`` as well
        """
        self.cluster = list(cluster) or [ports]
        number = self.cluster.index(ports) + 1
        self._home = state_dir.resolve() / "rabbitmq"
        self.state_dir = self._home if number == 1 else self._home / f"node-{number}"
        self.ports = ports
        self._hosts = hosts
        self._tls = tls
        self.log = self.state_dir / "broker.log"
        self._epmd = Service(
            "epmd",
            ["epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)],
            self._environment(),
            self._home / "epmd.log",
            record=self._home / "epmd.pid",
        )
        self._broker = Service(
            "RabbitMQ",
            [str(_SCRIPTS / "rabbitmq-server")],
            self._environment(),
            self.log,
            record=self.state_dir / "broker.pid",
        )

    @property
    def url(self) -> str:
        """amqp:// URL of the account that may do everything; the password is otherwise only in a file of mode 0600."""
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.ports.amqp}/"

    @property
    def transport_url(self) -> str:
        """The same for oslo.messaging."""
        return self._build_transport_url(USER)

    @property
    def gateway_url(self) -> str:
        """For oslo.messaging, with the gateway's own account."""
        return self.build_gateway_url()

    def build_gateway_url(self, ports: Sequence[int] = ()) -> str:
        """The same over other ports, which may be relays'; none: every node's own."""
        return self._build_transport_url(GATEWAY_ACCOUNT, ports)

    def build_agent_url(self, host: str, ports: Sequence[int] = (), address: str = "127.0.0.1") -> str:
        """For oslo.messaging, with the account of one of the agents that the broker was made for; over other ports of another address."""
        return self._build_transport_url(build_agent_account(host), ports, address)

    @property
    def name(self) -> str:
        """The node's, among Erlang's."""
        return _name_node(self.ports)

    @property
    def password(self) -> str:
        """Of the account that may do everything."""
        return self._get_password(USER)

    def _build_transport_url(self, account: str, ports: Sequence[int] = (), address: str = "127.0.0.1") -> str:
        login = f"{account}:{self._get_password(account)}"
        return f"rabbit://{','.join(f'{login}@{address}:{port}' for port in ports or [node.amqp for node in self.cluster])}/"

    def _get_password(self, account: str) -> str:
        """Made at the first use and kept, each in a file that only its owner can read."""
        path = self._home / "passwords" / account
        if not path.exists():
            _write_secret(path, secrets.token_urlsafe(24))
        return path.read_text()

    @property
    def pid(self) -> int:
        """Pid of the Erlang virtual machine; raises RuntimeError when it does not run."""
        return self._broker.pid

    @property
    def is_running(self) -> bool:
        return self._broker.is_running

    def start(self, timeout: float = _BOOT_TIMEOUT) -> None:
        """Start and wait until AMQP is accepted; raises StepFailed."""
        self.launch()
        self.wait_ready(timeout)

    def launch(self) -> None:
        """Start without waiting, so that other parts can start meanwhile."""
        self._write_files()
        if not self._epmd.is_running:
            self._epmd.start()
            self._epmd.wait_ready(lambda: _accepts(self._epmd_port), 10, f"port {self._epmd_port} is open")
        self._broker.start()

    def wait_ready(self, timeout: float = _BOOT_TIMEOUT) -> None:
        """Wait for the first AMQP handshake; raises StepFailed when the node ended or was too slow."""
        self._broker.wait_ready(
            lambda: _speaks_amqp(self.ports.amqp),
            timeout,
            f"AMQP is accepted on port {self.ports.amqp}",
            advice="read the log; if it names a port, choose others with --port",
        )

    def stop(self) -> None:
        """Stop the node and its epmd; that of a cluster is stopped with its first node."""
        self._broker.stop(_STOP_GRACE)
        if self.ports == self.cluster[0]:
            self._epmd.stop()

    def kill(self) -> None:
        """kill -9 of the node; its epmd stays, as on a real host."""
        self._broker.kill()

    def restart(self) -> None:
        """An orderly stop of the node and a start; raises StepFailed."""
        self._broker.stop(_STOP_GRACE)
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._broker.freeze()

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        self._broker.thaw()

    def set_memory_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm: while it lasts the broker reads from no publisher."""
        self.ctl("set_vm_memory_high_watermark", "0" if on else _WATERMARK)

    def ctl(self, *args: str) -> str:
        """Output of rabbitmqctl (1 to 3 s a call); raises subprocess.CalledProcessError with its message."""
        environment = self._environment() | {
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self.ports.ctl_dist.start),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self.ports.ctl_dist.stop - 1),
        }
        done = subprocess.run(
            [str(_SCRIPTS / "rabbitmqctl"), "--quiet", *args],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_CTL_TIMEOUT,
        )
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, ["rabbitmqctl", *args], done.stdout, done.stderr)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        """Everything that would else point at the machine's own node, pointed here."""
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        loopback_only = "-kernel inet_dist_use_interface {127,0,0,1}"
        return keep | {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self.ports.dist),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.state_dir / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.state_dir / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.state_dir / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.state_dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.state_dir),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.state_dir / "rabbitmq.pid"),
            # The script then execs the virtual machine instead of staying in front of it: our pid is the node's.
            "RABBITMQ_ALLOW_INPUT": "1",
            # No busy waiting of schedulers, which costs a small machine more than it gives.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none {loopback_only}",
            "RABBITMQ_CTL_ERL_ARGS": loopback_only,
        }

    def _write_files(self) -> None:
        if not (_SCRIPTS / "rabbitmq-server").exists() or shutil.which("epmd") is None:
            raise StepFailed("RabbitMQ is not installed", advice="run devstack/demo once, it installs what is missing")
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        cookie = self._home / ".erlang.cookie"
        if not cookie.exists():
            _write_secret(cookie, secrets.token_hex(20))
            cookie.chmod(0o400)
        definitions = self.state_dir / "definitions.json"
        write_definitions(
            definitions,
            USER,
            self.password,
            gateway_password=self._get_password(GATEWAY_ACCOUNT),
            agent_passwords={host: self._get_password(build_agent_account(host)) for host in self._hosts},
        )
        (self.state_dir / "enabled_plugins").write_text("[].\n")
        (self.state_dir / "rabbitmq.conf").write_text(
            "\n".join(
                [
                    f"listeners.tcp.1 = 127.0.0.1:{self.ports.amqp}",
                    f"default_vhost = {VHOST}",
                    f"load_definitions = {definitions}",
                    f"vm_memory_high_watermark.relative = {_WATERMARK}",
                    "disk_free_limit.absolute = 100MB",
                    "log.console = true",
                    "log.console.level = info",
                    # The default log of 512 MiB is allocated at boot.
                    "raft.wal_max_size_bytes = 33554432",
                    *self._list_tls_settings(),
                    *self._list_cluster_settings(),
                    "",
                ]
            )
        )

    @property
    def _epmd_port(self) -> int:
        return self.cluster[0].epmd

    def _list_tls_settings(self) -> list[str]:
        if self._tls is None:
            return []
        return [
            f"listeners.ssl.1 = 127.0.0.1:{self.ports.amqps}",
            f"ssl_options.cacertfile = {self._tls.ca}",
            f"ssl_options.certfile = {self._tls.certificate}",
            f"ssl_options.keyfile = {self._tls.key}",
        ]

    def _list_cluster_settings(self) -> list[str]:
        if len(self.cluster) == 1:
            return []
        names = [f"cluster_formation.classic_config.nodes.{number} = {_name_node(node)}" for number, node in enumerate(self.cluster, 1)]
        return [
            "cluster_formation.peer_discovery_backend = classic_config",
            *names,
            # A node that sees less than half of the others would go on by itself.
            "cluster_partition_handling = pause_minority",
            # Clients declare their queues wherever they are; their leaders are to be on all nodes.
            "queue_leader_locator = balanced",
        ]


def _name_node(ports: Ports) -> str:
    return f"crashcart-{ports.base}@localhost"


def _write_secret(path: Path, secret: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _speaks_amqp(port: int) -> bool:
    """True when the broker answers a protocol header with its connection.start."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            answer = connection.recv(7)
    except OSError:
        return False
    return answer[:1] == b"\x01"
