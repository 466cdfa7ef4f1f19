"""Play changed code: a change is noticed when a world breaks a promise, raises, or does not come to its end.

``devstack/mutate`` runs it where mutmut wrote its modules: each holds all its changes and runs the one that the environment names.
One process imports everything and forks once for each change.
"""

import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from tests.databases import write_database
from tests.simulation.running import run_script
from tests.simulation.script import draw_script

_WORLDS = (5, 9, 3, 8, 10, 4, 2, 0, 6)
"""The seeds: three large worlds of some 450 actions each first, then six small ones in which more goes wrong for each action."""
_CPU_LIMIT = 120
"""Seconds for all worlds of one change, which take 5: more than that is a loop without end."""
_TIME_LIMIT = 1200
"""Seconds on the wall, where others leave little of the processors: more is a wait without end."""


def main() -> int:
    """Prints a line for each line of the file named: the name of the change and ``survived``, ``killed`` or ``timeout``.

    Exit code 1: the worlds break without any change.
    """
    names = Path(sys.argv[1]).read_text().splitlines()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="crashcart-mutants-", dir=memory if memory.is_dir() else None))
    try:
        template = write_database(folder / "template.sqlite")
        gc.freeze()
        if _try("", template, folder / "run") != "survived":
            return 1
        for name in names:
            print(json.dumps([name, _try(name, template, folder / "run")]), flush=True)
    finally:
        shutil.rmtree(folder)
    return 0


def _try(name: str, template: Path, folder: Path) -> str:
    child = os.fork()
    if child == 0:
        os._exit(_play(name, template, folder))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    shutil.rmtree(folder, ignore_errors=True)
    if code in (-signal.SIGXCPU, -signal.SIGALRM):
        return "timeout"
    return "killed" if code else "survived"


def _play(name: str, template: Path, folder: Path) -> int:
    """In the forked child; its exit code. What was broken without any change goes to standard error."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT, _CPU_LIMIT + 1))
    signal.alarm(_TIME_LIMIT)
    os.environ["MUTANT_UNDER_TEST"] = name
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    if name:
        os.dup2(silent, 2)
    try:
        for seed in _WORLDS:
            violations, _ = run_script(draw_script(seed), template, folder)
            if violations:
                print(f"seed {seed}:", *violations, sep="\n", file=sys.stderr)
                return 1
    except BaseException:  # noqa: BLE001 -- changed code raises anything, anywhere
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
