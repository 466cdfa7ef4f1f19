"""What a process sees whose clock is moved."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devstack.clocks import ClockOffset
from devstack.real_parts import may_skip_real_tests

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None and may_skip_real_tests(), reason="not installed: gcc")

# -S: no site-packages, which take longer to find than the rest takes.
_PROGRAM = """
import sys, time, datetime, threading
for line in sys.stdin:
    began = time.monotonic()
    threading.Event().wait(0.01)
    time.sleep(0.01)
    print(time.time(), datetime.datetime.now(datetime.UTC).timestamp(), began, time.monotonic(), flush=True)
"""


def test_a_process_sees_its_wall_clock_moved_while_it_runs_and_spans_as_they_are(tmp_path: Path) -> None:
    clock = ClockOffset(tmp_path / "offset", 5.25)
    environment = os.environ | clock.environment
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", _PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset in (5.25, -3600.75, 0.0):
            clock.seconds = offset
            before = time.time(), time.monotonic()
            process.stdin.write("\n")
            wall, moment, began, ended = map(float, process.stdout.readline().split())
            after = time.time(), time.monotonic()
            assert before[0] - 0.001 <= wall - offset <= after[0] + 0.001
            assert abs(moment - wall) < 1
            assert before[1] <= began < ended - 0.02 <= after[1]
        process.stdin.close()


def test_an_offset_is_kept_in_its_file(tmp_path: Path) -> None:
    ClockOffset(tmp_path / "offset", 2.5)
    assert ClockOffset(tmp_path / "offset", -1).seconds == -1
