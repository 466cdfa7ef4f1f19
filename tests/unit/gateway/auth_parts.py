"""What the tests of authentication share: an application under a strategy, and the files of ``http_basic``."""

import base64
from pathlib import Path
from typing import Any

import bcrypt

from tests.fakes import FakeClock
from tests.http.application import Application, create_application

PASSWORDS = {"alice": "wonderland", "bob": "builder", "nobody": "nothing"}
ROLES = """\
alice: {project: demo, roles: [member]}
bob: {project: other, roles: [Admin]}
"""


def hash_password(password: str) -> str:
    """At the lowest cost that bcrypt has: a test need not be slow to be true."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


HASHES = {user: hash_password(password) for user, password in PASSWORDS.items()}


def write_user_file(path: Path, lines: list[str] | None = None) -> None:
    path.write_text("\n".join(lines if lines is not None else [f"{user}:{digest}" for user, digest in HASHES.items()]) + "\n")
    path.chmod(0o640)


def create_basic_application(directory: Path, *, clock: FakeClock | None = None, **options: Any) -> Application:
    """An application under ``http_basic`` with the users above; its files lie in ``directory``."""
    write_user_file(directory / "htpasswd")
    (directory / "roles.yaml").write_text(ROLES)
    return create_application(
        directory,
        clock=clock,
        auth_strategy="http_basic",
        http_basic_auth_user_file=str(directory / "htpasswd"),
        http_basic_roles_file=str(directory / "roles.yaml"),
        **options,
    )


def build_login(user: str, password: str | None = None) -> dict[str, str]:
    """The header of a login; None: the user's right password."""
    text = f"{user}:{PASSWORDS[user] if password is None else password}"
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
