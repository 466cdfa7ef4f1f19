"""A private libvirtd: session mode for a user, a private mount namespace for root; never the machine's own."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

from devstack.cache import get_cache_dir
from devstack.services import ProcessId, Service, ServiceOwner
from devstack.short_path import ShortPath
from devstack.steps import StepFailed

_START_TIMEOUT = 60.0
_STOP_GRACE = 15.0
# libvirtd's own directories, and the part of ours that the private namespace shows in their place.
_BINDS = {
    "/etc/libvirt": "etc",
    "/run/libvirt": "run",
    "/var/lib/libvirt": "lib",
    "/var/log/libvirt": "log",
}
_CACHE_BIND = "/var/cache/libvirt"
# libvirtd insists on this account although it is told to use another; libvirt-daemon-system would make it, and
# bring services along. The private namespace shows account files in which it exists.
_ACCOUNT = "libvirt-qemu"
_ACCOUNT_LINES = {
    "/etc/passwd": f"{_ACCOUNT}:x:64055:64055::/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": f"{_ACCOUNT}:x:64055:\n",
}


class PrivateLibvirtd(ServiceOwner):
    """One libvirtd under `state_dir`; found again by any later object with the same directory.

    What QEMU can do is probed once and kept in `cache_dir`, shared by all stacks: without it the first guest
    waits 8 s.
    """

    def __init__(self, state_dir: Path, cache_dir: Path | None = None) -> None:
        self.state_dir = state_dir.resolve() / "libvirt"
        self.cache_dir = (cache_dir or get_cache_dir()).resolve() / "libvirt"
        self.is_system = os.geteuid() == 0
        self.log = self.state_dir / "libvirtd.log"
        self.dump_dir = self.state_dir / "dumps"
        self._short_path = ShortPath(self.state_dir)
        self._short = self._short_path.path
        self._service = Service(
            "libvirtd",
            self._make_argv(),
            self._environment(),
            self.log,
            record=self.state_dir / "libvirtd.pid",
        )

    @property
    def uri(self) -> str:
        """libvirt URI of this daemon and no other."""
        mode = "system" if self.is_system else "session"
        return f"qemu+unix:///{mode}?socket={self.socket}"

    @property
    def socket(self) -> Path:
        """The read-write socket."""
        return self._short / ("run" if self.is_system else "run/libvirt") / "libvirt-sock"

    def start(self, timeout: float = _START_TIMEOUT) -> None:
        """Start and wait until it answers; raises StepFailed."""
        self._write_files()
        self._service.start()
        self._service.wait_ready(
            self._answers,
            timeout,
            "it answers on its socket",
            advice="read the log; in a container root may lack the right to mount (CAP_SYS_ADMIN): run as an unprivileged user instead",
        )

    def stop(self) -> None:
        """Stop the daemon; guests live on."""
        self._service.stop(_STOP_GRACE)

    @contextmanager
    def connect(self) -> Iterator[libvirt.virConnect]:
        """A connection for the duration of a with block; raises libvirt.libvirtError."""
        connection = libvirt.open(self.uri)
        try:
            yield connection
        finally:
            connection.close()

    def end(self) -> None:
        """Stop the daemon and every guest that it ever started, and take the short path away."""
        self.stop()
        for process in self._list_guest_processes():
            process.stop(grace=3.0)
        self._short_path.remove()

    def _list_guest_processes(self) -> list[ProcessId]:
        """QEMU processes of this daemon, known by their pid files and by what stands on their command lines."""
        run_dir = self.state_dir / "run" / ("qemu" if self.is_system else "libvirt/qemu/run")
        found = []
        for path in run_dir.glob("*.pid"):
            process = ProcessId.find_running(int(path.read_text() or 0))
            if process is not None and self._is_own_guest(process):
                found.append(process)
        return found

    def _is_own_guest(self, process: ProcessId) -> bool:
        """The pid may be another's by now: a guest of ours sees our directories, or names them."""
        try:
            command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        if b"qemu-system" not in command_line:
            return False
        if self.is_system:
            return f" {self.state_dir / 'run'} /run/libvirt " in mounts
        return str(self._short).encode() in command_line

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # first, because libvirt prints each failed attempt
                probe.connect(str(self.socket))
            with self.connect() as connection:
                connection.getHostname()
        except (OSError, libvirt.libvirtError):
            return False
        return True

    def _make_argv(self) -> list[str]:
        if not self.is_system:
            config = self._short / "config/libvirt/libvirtd.conf"
            return ["libvirtd", "--config", str(config)]
        binds = [(self.state_dir / part, place) for place, part in _BINDS.items()]
        binds.append((self.cache_dir, _CACHE_BIND))
        binds += [(self.state_dir / Path(place).name, place) for place in _ACCOUNT_LINES]
        commands = [f"mount --bind {shlex.quote(str(source))} {place}" for source, place in binds]
        commands.append("exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid")
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "; ".join(commands)]

    def _environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        keep["PATH"] = f"{keep.get('PATH', '')}:/usr/sbin:/sbin"  # where a user's PATH does not look for libvirtd
        if self.is_system:
            return keep
        return keep | {
            "HOME": str(self._short / "home"),
            "XDG_RUNTIME_DIR": str(self._short / "run"),
            "XDG_CONFIG_HOME": str(self._short / "config"),
            "XDG_DATA_HOME": str(self._short / "share"),
            "XDG_CACHE_HOME": str(self.cache_dir),
        }

    def _write_files(self) -> None:
        if shutil.which("libvirtd", path=self._environment()["PATH"]) is None:
            raise StepFailed("libvirtd is not installed", advice="run devstack/demo once, it installs what is missing")
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in ("home", "config/libvirt", "share", "dumps", *_BINDS.values()):
            (self.state_dir / directory).mkdir(parents=True, exist_ok=True)
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        self._short_path.make()
        if self.is_system:
            for place in (*_BINDS, _CACHE_BIND):
                Path(place).mkdir(parents=True, exist_ok=True)
            for place, line in _ACCOUNT_LINES.items():
                accounts = Path(place).read_text()
                has_account = f"\n{_ACCOUNT}:" in accounts
                (self.state_dir / Path(place).name).write_text(accounts if has_account else accounts + line)
        config = self.state_dir / ("etc" if self.is_system else "config/libvirt")
        (config / "libvirtd.conf").write_text(self._make_daemon_config())
        (config / "qemu.conf").write_text(self._make_qemu_config())

    def _make_daemon_config(self) -> str:
        lines = [
            'auth_unix_ro = "none"',
            'auth_unix_rw = "none"',
            "log_level = 3",
            'log_outputs = "3:stderr"',
        ]
        if self.is_system:
            lines += [
                'unix_sock_dir = "/run/libvirt"',
                'unix_sock_ro_perms = "0700"',
                'unix_sock_rw_perms = "0700"',
            ]
        return "\n".join(lines) + "\n"

    def _make_qemu_config(self) -> str:
        lines = [
            'stdio_handler = "file"',  # else it wants virtlogd
            'security_driver = "none"',
            f'auto_dump_path = "{self.dump_dir}"',
        ]
        if self.is_system:
            # As another user, what QEMU can do would be probed anew at every look.
            lines += ['user = "root"', 'group = "root"', "dynamic_ownership = 0", "remember_owner = 0"]
            lines += ["namespaces = []", "cgroup_controllers = []"]
        return "\n".join(lines) + "\n"
