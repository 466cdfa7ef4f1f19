"""What a fresh interpreter must not load for each program: what its host need not have installed, and what would only make a start slow."""

import subprocess
import sys

import pytest

_DRIVERS = ("libvirt", "pyghmi", "sushy")
_NOT_YET_NEEDED = ("alembic", "keystonemiddleware", "re2", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql")
_NEVER = ("eventlet", "aiohttp")


@pytest.mark.parametrize(
    ("program", "foreign"),
    [
        (
            "compute_agent.service",
            (*_DRIVERS, "sqlalchemy", "falcon", "granian", "uvicorn", "jsonschema", "requests", "urllib3", "smtplib", "cryptography"),
        ),
        (
            "api_gateway.engine",
            (*_DRIVERS, "falcon", "granian", "jsonschema", "requests", "oslo_policy.policy", "bcrypt", "cryptography", "urllib3"),
        ),
        ("api_gateway.wsgi", (*_DRIVERS, "oslo_messaging", "oslo_service", "uvicorn", "bcrypt", "cryptography")),
    ],
)
def test_a_program_loads_nothing_that_it_does_not_need_to_start(program: str, foreign: tuple[str, ...]) -> None:
    unwanted = (*foreign, *_NOT_YET_NEEDED, *_NEVER)
    script = f"import sys, {program}; print([name for name in {unwanted!r} if sys.modules.get(name) is not None])"

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert loaded.stdout.strip() == "[]"
    assert loaded.stderr == "", "a command's stderr is for its user"
