"""Shared objects that devstack builds of C sources of its own, kept in the cache until these change."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack.cache import get_cache_dir, note_use, remove_unused
from devstack.steps import StepFailed


def ensure_shared_object(name: str, sources: Sequence[Path], *, advice: str, cache_dir: Path | None = None) -> Path:
    """The object ``name``.so, built when one of ``sources`` (C files and headers) changed (0.2 s); several processes may ask at once.

    :param advice: what to do where gcc cannot build it
    :raises StepFailed: gcc could not build it.
    """
    cache_dir = (cache_dir or get_cache_dir()).resolve()
    cache_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    directory = cache_dir / f"{name}-{digest[:12]}"
    wanted = directory / f"{name}.so"
    with (cache_dir / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            log = cache_dir / f"{name}.log"
            directory.mkdir(exist_ok=True)
            with TemporaryDirectory(dir=directory) as partial, log.open("w") as output:
                built = Path(partial) / wanted.name
                argv = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-o", str(built)]
                argv += [str(source) for source in sources if source.suffix == ".c"]
                done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
                if done.returncode != 0:
                    raise StepFailed(f"gcc could not build {wanted.name}", log=log, advice=advice)
                built.rename(wanted)
            remove_unused(cache_dir, f"{name}-")
        note_use(directory)
    return wanted
