"""Many production agents, each a process with its own journal and connections: ``python -m tests.bench.agent_fleet CONFIG...``.

They are forked out of one process that has loaded everything and has no thread yet, so that a hundred start in seconds and share the
memory of what they loaded. Each serves one host until the fleet is told to stop (SIGTERM), and then writes beside its journal how many
signals its fake driver was asked to send to each server.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

from compute_agent import config, service
from compute_agent.drivers import fake

SIGNALS = "signals.json"
"""Beside the journal: server -> signals."""
_STOPS = {signal.SIGTERM, signal.SIGINT}


class CountingHypervisor(fake.FakeHypervisor):
    """Knows how many signals it was asked for."""

    signals: ClassVar[Counter[str]] = Counter()

    def inject_nmi(self, server: str) -> None:
        self.signals[server] += 1  # one action at a time per server
        super().inject_nmi(server)


def read_signals(directory: Path) -> Counter[str]:
    """What all agents that have stopped were asked for, of those that keep their state under ``directory``."""
    total: Counter[str] = Counter()
    for path in directory.glob(f"*/{SIGNALS}"):
        total.update(json.loads(path.read_text()))
    return total


def _serve(config_file: str) -> int:
    arguments = ["--config-file", config_file]
    state_path = Path(config.load_config(arguments).agent.state_path)
    with patch.object(fake, "FakeHypervisor", CountingHypervisor):
        code = service.main(arguments)
    (state_path / SIGNALS).write_text(json.dumps(CountingHypervisor.signals))
    return code


def _fork(config_file: str) -> int:
    """The pid of a new process that serves one host, and ends without returning from here."""
    pid = os.fork()
    if pid:
        return pid
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    code = 1
    try:
        code = _serve(config_file)
    except BaseException:  # noqa: BLE001 -- it must not go on as if it were the parent, whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(config_files: Sequence[str]) -> int:
    """Serve all hosts; 0 when every agent stopped as it was told to."""
    if threading.active_count() > 1:
        raise RuntimeError("a process with threads cannot be forked")
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    gc.freeze()
    pids = [_fork(config_file) for config_file in config_files]
    signal.sigwait(_STOPS)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
