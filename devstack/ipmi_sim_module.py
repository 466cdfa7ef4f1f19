"""Builds the module that every simulated BMC's process loads: what ipmi_sim has no machine, no events and no whole watchdog for."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack.cache import get_cache_dir, note_use, remove_unused
from devstack.steps import StepFailed

_SOURCES = sorted(Path(__file__).parent.glob("ipmi_sim_*.[ch]"))
_PREFIX = "ipmi-module-"


def ensure_module(cache_dir: Path | None = None) -> Path:
    """The module that every simulator loads, built when its source changed (0.2 s); raises StepFailed."""
    cache_dir = (cache_dir or get_cache_dir()).resolve()
    cache_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in _SOURCES)).hexdigest()
    directory = cache_dir / f"{_PREFIX}{digest[:12]}"
    module = directory / "ipmi_sim_module.so"
    with (cache_dir / "ipmi-module.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not module.exists():
            log = cache_dir / "ipmi-module.log"
            directory.mkdir(exist_ok=True)
            with TemporaryDirectory(dir=directory) as partial, log.open("w") as output:
                built = Path(partial) / module.name
                argv = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-o", str(built)]
                argv += [str(source) for source in _SOURCES if source.suffix == ".c"]
                done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
                if done.returncode != 0:
                    advice = "is libopenipmi-dev installed? devstack/demo installs what is missing"
                    raise StepFailed("gcc could not build the module of ipmi_sim", log=log, advice=advice)
                built.rename(module)
            remove_unused(cache_dir, _PREFIX)
        note_use(directory)
    return module
