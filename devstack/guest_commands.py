"""Tells a running test guest what to do, over a serial line: `devstack/guest/init` obeys lines of shell, one at a time."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from devstack.services import wait_until

_CARD = "8086:25ab"


def make_pipes(path: Path) -> None:
    """PATH.in and PATH.out, the two ends of one of QEMU's pipes, made anew: what nobody has read is gone."""
    for end in ("in", "out"):
        pipe = path.with_suffix(f".{end}")
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe, mode=0o600)


class GuestCommands:
    """The other end of the guest's fourth serial line: QEMU reads from PATH.in; nothing comes out of PATH.out.

    The guest answers on its first line, `serial_log`. Commands are kept until the guest reads them; what a reboot interrupts is lost.
    """

    def __init__(self, path: Path, serial_log: Path) -> None:
        self.path = path
        self._serial_log = serial_log

    def make_pipes(self) -> None:
        """Make them anew: commands that nobody has read are gone."""
        make_pipes(self.path)

    def send(self, command: str) -> str:
        """Hand one line of shell to a guest that runs, and do not wait for it; the token that it answers with.

        Raises OSError when QEMU is not there.
        """
        token = secrets.token_hex(4)
        pipe = os.open(self.path.with_suffix(".in"), os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, f"{token} {command}\n".encode())
        finally:
            os.close(pipe)
        return token

    def run(self, command: str, timeout: float = 30.0) -> str:
        """What the command wrote. Raises RuntimeError when it failed, TimeoutError when it has not ended in time."""
        token = self.send(command)
        done = re.compile(rf"^crashcart-done {token}: (\d+)\s*$", re.MULTILINE)
        ended = wait_until(lambda: done.search(self._read_answers()), timeout, f"the guest to end {command!r}")
        said = re.findall(rf"^crashcart-said {token}: (.*?)\r*$", self._read_answers(), re.MULTILINE)
        if ended[1] != "0":
            raise RuntimeError(f"{command!r} in the guest ended with {ended[1]}: {said}")
        return "\n".join(said)

    def starve_watchdog(self, timeout: int = 1, times: int = 1) -> None:
        """Open the watchdog with a timeout in seconds and never feed it, so that it fires; `times` times, `timeout` + 0.5 s apart.

        Returns at once. A guest that is reset or stopped by it does not go on.
        """
        self.send(f"starve_watchdog {timeout} {times}")

    def feed_watchdog(self, timeout: int = 1) -> None:
        """Start a daemon that opens the watchdog with a timeout in seconds and feeds it five times a second; returns when it counts."""
        self.run(f"feed_watchdog {timeout}")

    def kill_watchdog_daemon(self) -> None:
        """kill -9 of the daemon that :meth:`feed_watchdog` or :meth:`starve_watchdog` started: nobody closed the watchdog."""
        self.run("kill -9 $watchdog; wait $watchdog; watchdog=''")

    def panic(self) -> None:
        """Let the kernel panic."""
        self.send("echo c >/proc/sysrq-trigger")

    def list_pci(self) -> list[str]:
        """The guest's PCI devices as `vendor:device`, in hexadecimal digits."""
        return (
            self.run("cd /sys/bus/pci/devices; for d in *; do echo $(cat $d/vendor $d/device); done; cd /")
            .replace("0x", "")
            .replace(" ", ":")
            .split("\n")
        )

    def has_i6300esb(self) -> bool:
        """Whether the guest sees the card."""
        return _CARD in self.list_pci()

    def _read_answers(self) -> str:
        return self._serial_log.read_text(errors="replace")
