"""Simulated BMCs that speak IPMI: private processes of `ipmi_sim`, independent C code out of Debian's package openipmi."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.bmc_sensors import SENSORS
from devstack.cache import get_cache_dir
from devstack.ipmi_sim_module import ensure_module
from devstack.ports import find_free_port
from devstack.services import PATIENCE, Service, ServiceOwner
from devstack.steps import StepFailed

ADDRESS = "127.0.0.1"
MOST_BMCS = 100
"""How many one process may simulate: their addresses on the management bus are bytes, and even."""
_FIRST_IPMB = 0x20
_LOG_ENTRIES = 1000
_START_TIMEOUT = 20.0
_CONSOLE_TIMEOUT = 5.0
# After what a new connection is greeted with, or at the beginning of a line. What follows it is of sessions that come and go meanwhile.
_PROMPT = re.compile(rb"(?:\A[\x01\x03\xfb-\xff]*|[\r\n])> ")
# RMCP's presence ping, and the type of the answer to it.
_PING = bytes([6, 0, 0xFF, 6, 0, 0, 0x11, 0xBE, 0x80, 0, 0, 0])
_PONG = 0x40


@dataclass(frozen=True)
class BmcUser:
    """An account that every simulated BMC has. ``privilege`` is the most that it may have."""

    name: str
    password: str
    privilege: str


ADMINISTRATOR = BmcUser("admin", "not-a-secret", "administrator")
OPERATOR = BmcUser("operator", "also-no-secret", "operator")
USER = BmcUser("viewer", "no-secret-either", "user")
_USERS = (ADMINISTRATOR, OPERATOR, USER)
_CONFIG_PRIVILEGES = {"administrator": "admin", "operator": "operator", "user": "user"}


@dataclass(frozen=True)
class BmcSpec:
    """One BMC of a process. With a ``start_command`` (a line of shell) it runs a virtual machine, which connects to ``vm_port``;
    without, its machine is nothing but its power state."""

    start_command: str = ""
    vm_port: int = 0


class SimulatedBmc:
    """One BMC: where it answers, and what it did to its machine. The machine is on, unless it was switched off."""

    def __init__(self, simulator: IpmiSim, spec: BmcSpec, ipmb: int, port: int) -> None:
        self.address = ADDRESS
        self.port = port
        self.spec = spec
        self.ipmb = ipmb
        self._simulator = simulator
        self._done = simulator.state_dir / f"{ipmb:02x}.done"
        self._power = simulator.state_dir / f"{ipmb:02x}.power"

    def count_nmis(self) -> int:
        """How many diagnostic interrupts it gave its machine, whether this was on or not."""
        return self.list_done().count("nmi")

    def list_done(self) -> list[str]:
        """What it did to its machine, in order: nmi, reset, power_on, power_off, graceful_shutdown."""
        return [what for _, what in self.list_done_at()]

    def list_done_at(self) -> list[tuple[float, str]]:
        """The same with the time of each, in seconds since 1970."""
        lines = self._done.read_text().splitlines() if self._done.exists() else []
        return [(float(at), what) for at, what in (line.split() for line in lines)]

    def set_power(self, is_on: bool) -> None:
        """Switch a machine without a virtual machine on or off, past its BMC."""
        if self.spec.start_command:
            raise ValueError("the virtual machine decides whether it is on")
        partial = self._power.with_suffix(".new")
        partial.write_text(f"{is_on:d}\n")
        partial.replace(self._power)

    @property
    def is_on(self) -> bool:
        """Whether a machine without a virtual machine is on."""
        return not self._power.exists() or self._power.read_text().startswith("1")

    def add_log_record(self, *, sensor_type: int, offset: int, event_type: int = 0x6F, sensor: int = 0, details: int = 0xFFFF) -> None:
        """Add a system event record to the BMC's log, with the time of now; raises StepFailed when the log is full."""
        generator, revision, timestamp = [_FIRST_IPMB, 0], 4, [0, 0, 0, 0]
        event = [sensor_type, sensor, event_type, offset, *details.to_bytes(2, "big")]
        self.add_raw_log_record(2, bytes([*timestamp, *generator, revision, *event]))

    def add_raw_log_record(self, record_type: int, content: bytes) -> None:
        """The same by the record's 13 bytes; the BMC writes the timestamp (the first four) itself below record type 0xE0."""
        self._simulator.run_command(" ".join([f"sel_add 0x{self.ipmb:x} 0x{record_type:x}", *(f"0x{byte:x}" for byte in content)]))

    def list_log(self) -> list[str]:
        """The records of the BMC's log, a line each, as ipmitool reads them."""
        return [line.strip() for line in self.run_ipmitool("sel", "list").splitlines() if line.strip()]

    def clear_log(self) -> None:
        """As an operator does it, with ipmitool, which comes back when the log is empty."""
        self.run_ipmitool("sel", "clear")

    def run_ipmitool(self, *words: str, user: BmcUser = ADMINISTRATOR, timeout: float = 30.0) -> str:
        """What ipmitool printed; raises StepFailed when it failed."""
        argv = ["ipmitool", "-I", "lanplus", "-C", "3", "-H", self.address, "-p", str(self.port), "-U", user.name, "-E"]
        argv += ["-L", user.privilege.upper(), *words]
        environment = {**os.environ, "IPMI_PASSWORD": user.password}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)
        if done.returncode != 0:
            raise StepFailed(f"ipmitool {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def answers(self, timeout: float = 0.2) -> bool:
        """Whether it answers a presence ping."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(timeout)
            try:
                probe.connect((self.address, self.port))
                probe.send(_PING)
                answer = probe.recv(64)
            except (TimeoutError, ConnectionRefusedError):
                return False
        return len(answer) > 8 and answer[8] == _PONG


class IpmiSim(ServiceOwner):
    """One process with one or many BMCs; found again by any later object with the same directory.

    Everything that the BMCs know is in ``state_dir``: their ports, logs and the power of their machines live through :meth:`restart`,
    all but the ports until :meth:`forget`. ``clock_ahead`` is by how many seconds their clocks are wrong; None: they were never set.
    Their watchdogs are ipmi_sim's own, without a pre-timeout NMI, or with ``whole_watchdog`` what the specification wants.
    """

    def __init__(
        self,
        state_dir: Path,
        bmcs: int | Sequence[BmcSpec] = 1,
        *,
        clock_ahead: int | None = 0,
        whole_watchdog: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        specs = [BmcSpec()] * bmcs if isinstance(bmcs, int) else list(bmcs)
        if not 0 < len(specs) <= MOST_BMCS:
            raise ValueError(f"one process simulates between 1 and {MOST_BMCS} BMCs, not {len(specs)}")
        self.state_dir = state_dir.resolve()
        self.log = self.state_dir / "ipmi_sim.log"
        self._clock = "none" if clock_ahead is None else str(clock_ahead)
        self._watchdog = "whole" if whole_watchdog else "own"
        self._cache_dir = (cache_dir or get_cache_dir()).resolve()
        self.bmcs = [
            SimulatedBmc(self, spec, _FIRST_IPMB + 2 * index, port)
            for index, (spec, port) in enumerate(zip(specs, self._choose_ports(len(specs)), strict=True))
        ]
        argv = ["ipmi_sim", "-n", "-c", str(self._config), "-f", str(self._commands), "-s", str(self.state_dir / "state")]
        self._service = Service("ipmi_sim", argv, log=self.log, record=self.state_dir / "ipmi_sim.pid", cwd=self.state_dir)

    @property
    def bmc(self) -> SimulatedBmc:
        """The first one, of most simulators the only one."""
        return self.bmcs[0]

    def forget(self) -> None:
        """Let BMCs that do not run know nothing any more: no log, no deeds, and a machine that is on. They keep their ports."""
        shutil.rmtree(self.state_dir / "state", ignore_errors=True)
        for path in (*self.state_dir.glob("*.done"), *self.state_dir.glob("*.power")):
            path.unlink()

    def start(self) -> None:
        """Start and wait until the BMCs answer; raises StepFailed."""
        module = ensure_module(self._cache_dir)
        (self.state_dir / "state").mkdir(exist_ok=True)
        self._console_file.write_text(f"{find_free_port(socket.SOCK_STREAM)}\n")
        self._write_private(self._config, self._make_config(module))
        self._write_private(self._commands, self._make_commands())
        self._service.start()
        # They are brought up in their order before the first of them answers.
        self._service.wait_ready(self.bmcs[-1].answers, _START_TIMEOUT, "its BMCs answer", advice="read the log")

    def stop(self) -> None:
        """End the process; virtual machines live on."""
        self._service.stop()

    def run_command(self, command: str) -> str:
        """What a command of ipmi_sim_cmd(5) says in the process, beside what that tells of sessions meanwhile; raises StepFailed when it
        is a complaint."""
        with socket.create_connection((ADDRESS, int(self._console_file.read_text())), timeout=_CONSOLE_TIMEOUT * PATIENCE) as console:
            _read_to_prompt(console)
            console.sendall(f"{command}\n".encode())
            said = _read_to_prompt(console).replace("\r", "").removeprefix(f"{command}\n").strip()
        if re.search(r"^\*\*", said, re.MULTILINE):
            raise StepFailed(f"ipmi_sim: {command}: {said}", log=self.log)
        return said

    @property
    def _config(self) -> Path:
        return self.state_dir / "lan.conf"

    @property
    def _commands(self) -> Path:
        return self.state_dir / "bmcs.emu"

    @property
    def _console_file(self) -> Path:
        return self.state_dir / "console.port"

    def _choose_ports(self, count: int) -> list[int]:
        """The ports of an earlier object with this directory, else free ones."""
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        saved = self.state_dir / "ports.json"
        ports: list[int] = json.loads(saved.read_text()) if saved.exists() else []
        if len(ports) != count:
            ports = []
            while len(ports) < count:
                port = find_free_port(socket.SOCK_DGRAM)
                if port not in ports:
                    ports.append(port)
            saved.write_text(json.dumps(ports))
        return ports

    def _make_config(self, module: Path) -> str:
        lines = ['name "crashcart"', f"console {ADDRESS} {self._console_file.read_text().strip()}"]
        lines.append(f'loadlib "{module}" "{self.state_dir} {self._clock} {self._watchdog}"')
        for bmc in self.bmcs:
            lines += [f"set_working_mc 0x{bmc.ipmb:x}", "startlan 1", f"addr {bmc.address} {bmc.port}", "priv_limit admin"]
            # Without one it does not speak RMCP+.
            lines.append(f"guid {hashlib.md5(f'{self.state_dir} {bmc.ipmb}'.encode(), usedforsecurity=False).hexdigest()}")
            lines += [f"allowed_auths_{privilege} md5" for privilege in ("callback", "user", "operator", "admin")]
            lines.append("endlan")
            if bmc.spec.start_command:
                lines += [f"serial kcs {ADDRESS} {bmc.spec.vm_port} codec VM", f'startcmd "{bmc.spec.start_command}"']
                # A machine that does not go when it is told to is killed.
                lines += ["startnow false", "poweroff_wait 5", "kill_wait 5"]
            for number, user in enumerate(_USERS, start=2):
                lines.append(f'user {number} true "{user.name}" "{user.password}" {_CONFIG_PRIVILEGES[user.privilege]} 60 md5')
        return "\n".join(lines) + "\n"

    def _make_commands(self) -> str:
        lines = []
        for bmc in self.bmcs:
            mc = f"0x{bmc.ipmb:x}"
            # A controller gets its system interface and its watchdog because it is the BMC at the time.
            lines += [f"mc_setbmc {mc}", f"mc_add {mc} 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02", f"sel_enable {mc} {_LOG_ENTRIES} 0x0a"]
            # The watchdog writes what it did into the log as the first sensor.
            lines += [f"sensor_add {mc} 0 0 35 0x6f event-only"]
            lines += [
                f"sensor_set_event_support {mc} 0 0 enable scanning per-state 000000100001111 000000000000000 000000100001111 {'0' * 15}"
            ]
            for sensor in SENSORS:
                lines += sensor.list_commands(mc)
            lines.append(f"mc_enable {mc}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def _write_private(path: Path, content: str) -> None:
        path.touch(mode=0o600)
        path.write_text(content)


def _read_to_prompt(console: socket.socket) -> str:
    said = b""
    while (prompt := _PROMPT.search(said)) is None:
        more = console.recv(4096)
        if not more:
            raise StepFailed("ipmi_sim closed its console")
        said += more
    return said[: prompt.start()].decode(errors="replace")
