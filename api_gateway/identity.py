"""Who asks: user, project and roles, however they were established."""

from dataclasses import dataclass
from typing import Self

_IMPLIED_ROLES = {
    "admin": frozenset({"admin", "manager", "member", "reader"}),
    "manager": frozenset({"manager", "member", "reader"}),
    "member": frozenset({"member", "reader"}),
}
"""The roles that the standard ones bring along, as an identity service would have expanded them."""


@dataclass(frozen=True)
class Identity:
    """An authenticated caller."""

    user: str
    project: str
    roles: frozenset[str]

    @classmethod
    def of(cls, user: str, project: str, roles: frozenset[str]) -> Self:
        """With the roles that the given ones imply."""
        implied = (_IMPLIED_ROLES.get(role, frozenset({role})) for role in roles)
        return cls(user, project, frozenset().union(*implied))

    @classmethod
    def nobody(cls) -> Self:
        """The caller of what may be asked without authentication."""
        return cls("", "", frozenset())

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles
