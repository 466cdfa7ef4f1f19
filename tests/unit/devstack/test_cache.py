"""What the cache keeps of directories that are named after what went into them."""

import os
import time
from pathlib import Path

from devstack.cache import note_use, remove_unused


def make_unused(directory: Path) -> None:
    directory.mkdir()
    (directory / "file").touch()
    long_ago = time.time() - 2 * 86_400
    os.utime(directory, (long_ago, long_ago))


def test_what_nobody_used_for_a_day_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("guest-old", "guest-used", "wheel-old"):
        make_unused(tmp_path / name)
    (tmp_path / "guest-new").mkdir()
    (tmp_path / "guest-image.log").touch()
    note_use(tmp_path / "guest-used")
    remove_unused(tmp_path, "guest-")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guest-image.log", "guest-new", "guest-used", "wheel-old"]
