"""A short name for a deep directory: paths of UNIX sockets end at 107 bytes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from devstack.steps import StepFailed


class ShortPath:
    """A symbolic link in the directory for temporary files, always the same one for the same target."""

    def __init__(self, target: Path) -> None:
        self._target = target.resolve()
        digest = hashlib.sha256(str(self._target).encode()).hexdigest()[:12]
        self.path = Path(tempfile.gettempdir()) / f"crashcart-{digest}"

    def make(self) -> None:
        """Make the link anew; raises StepFailed when somebody else's file has that name."""
        if self.path.is_symlink() and self.path.lstat().st_uid == os.geteuid():
            self.path.unlink()
        try:
            self.path.symlink_to(self._target)
        except FileExistsError as error:
            raise StepFailed(f"{self.path} belongs to somebody else", advice="remove it, or set TMPDIR") from error

    def remove(self) -> None:
        """Take the link away, if it is there."""
        if self.path.is_symlink():
            self.path.unlink()
