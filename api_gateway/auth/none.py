"""Strategy ``none``: for a gateway that only this machine reaches."""

from api_gateway.context import Request
from api_gateway.faults import bad_request
from api_gateway.identity import Caller

_LONGEST_NAME = 255


class NoAuthentication:
    """Everybody on this machine is who they say they are; without a word, an admin of the default project."""

    loopback_only = True
    browsers_log_in = True

    def __init__(self, default_user: str, default_project: str) -> None:
        self._default = Caller.of(default_user, default_project, frozenset({"admin"}))

    def authenticate(self, request: Request) -> Caller:
        user = _read_name(request, "X-User-Id")
        project = _read_name(request, "X-Project-Id")
        roles = _read_name(request, "X-Roles")
        if user is None and project is None and roles is None:
            return self._default
        return Caller.of(
            user or self._default.user,
            project or self._default.project,
            # An empty header says "no roles"; only an absent one leaves the default.
            self._default.roles if roles is None else frozenset(role.strip().lower() for role in roles.split(",") if role.strip()),
        )


def _read_name(request: Request, header: str) -> str | None:
    value: str | None = request.get_header(header)
    if value is None:
        return None
    if len(value) > _LONGEST_NAME or not (value.isascii() and value.isprintable()):
        raise bad_request(f"Header {header} must be at most {_LONGEST_NAME} printable ASCII characters.")
    return value.strip()
