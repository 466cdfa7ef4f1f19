"""Where downloads, guest images and what was probed of this machine are kept between runs and between stacks.

Directories named after what went into them (guest images, environments) are kept while they are in use; see :func:`note_use`.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

_KEEP_UNUSED = 86_400.0
"""Seconds after which a directory that another version of the sources asked for is removed: a checkout beside this one may use it."""


def get_cache_dir() -> Path:
    """`$CRASHCART_CACHE`, by default `devstack/.cache`."""
    return Path(os.environ.get("CRASHCART_CACHE") or Path(__file__).parent / ".cache").resolve()


def note_use(directory: Path) -> None:
    """Mark ``directory`` of the cache as in use now."""
    os.utime(directory)


def remove_unused(cache_dir: Path, prefix: str) -> None:
    """Remove the directories ``prefix``* of a cache that nobody has used for a day; call it when another one was made."""
    for directory in cache_dir.glob(f"{prefix}*"):
        if directory.is_dir() and time.time() - directory.stat().st_mtime > _KEEP_UNUSED:
            shutil.rmtree(directory)
