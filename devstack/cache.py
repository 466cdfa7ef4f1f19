"""Where downloads, guest images and what was probed of this machine are kept between runs and between stacks."""

from __future__ import annotations

import os
from pathlib import Path


def get_cache_dir() -> Path:
    """`$CRASHCART_CACHE`, by default `devstack/.cache`."""
    return Path(os.environ.get("CRASHCART_CACHE") or Path(__file__).parent / ".cache").resolve()
