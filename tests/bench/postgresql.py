"""A private PostgreSQL: own directory, a Unix socket and no port, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INSTALLED_UNDER = Path("/usr/lib/postgresql")


def find_postgresql() -> Path | None:
    """The directory of the newest installed server's programs; None: there is none."""
    found = [path for path in _INSTALLED_UNDER.glob("*/bin") if (path / "initdb").exists()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def running_postgresql(programs: Path) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="crashcart-pg-") as name:
        directory = Path(name)
        owner = _find_owner()
        if owner is not None:
            shutil.chown(directory, owner)  # PostgreSQL refuses to run as root
        data, log = directory / "data", directory / "log"

        def run(*command: str) -> None:
            subprocess.run(command, check=True, user=owner, cwd=directory, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})

        run(str(programs / "initdb"), "-D", str(data), "-U", "crashcart", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        control = (str(programs / "pg_ctl"), "-D", str(data), "-w")
        run(*control, "-l", str(log), "-o", f"-c listen_addresses= -c unix_socket_directories={directory}", "start")
        try:
            yield f"postgresql+psycopg://crashcart@/postgres?host={directory}"
        finally:
            run(*control, "-m", "fast", "stop")


def _find_owner() -> str | None:
    """Whom to become; None: we are nobody's root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"
