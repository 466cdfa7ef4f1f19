"""Who asks: user, project and roles, however they were established, and the rules in force while the request lasts."""

from dataclasses import dataclass, field
from typing import Protocol, Self

_IMPLIED_ROLES = {
    "admin": frozenset({"admin", "manager", "member", "reader"}),
    "manager": frozenset({"manager", "member", "reader"}),
    "member": frozenset({"member", "reader"}),
}
"""The roles that the standard ones bring along, as an identity service would have expanded them."""


@dataclass(frozen=True)
class Caller:
    """What a strategy established: ids (never names that only look like them) and lower-case roles."""

    user: str
    project: str
    roles: frozenset[str]
    user_domain: str | None = None
    project_domain: str | None = None

    @classmethod
    def of(cls, user: str, project: str, roles: frozenset[str]) -> Self:
        """With the roles that the given ones imply, where no identity service has expanded them."""
        implied = (_IMPLIED_ROLES.get(role, frozenset({role})) for role in roles)
        return cls(user, project, frozenset().union(*implied))


class Rules(Protocol):
    """The policy as it was when the request came: one request is judged by one set of rules."""

    def allow(self, caller: Caller, rule: str, project: str) -> bool:
        """Whether ``rule`` lets ``caller`` act on what ``project`` owns."""
        ...

    def is_lasting(self, rule: str) -> bool:
        """Whether the question alone decides; else somebody else is asked each time, which may take as long as it takes."""
        ...


class _NoRules:
    def allow(self, caller: Caller, rule: str, project: str) -> bool:
        return False

    def is_lasting(self, rule: str) -> bool:
        return True


@dataclass(frozen=True)
class Identity:
    """An authenticated caller. ``is_admin``: sees all projects and passes locks (rule ``context_is_admin``)."""

    caller: Caller
    is_admin: bool
    rules: Rules = field(repr=False, compare=False)

    @classmethod
    def nobody(cls) -> Self:
        """The caller of what may be asked without authentication."""
        return cls(Caller("", "", frozenset()), False, _NoRules())

    @property
    def user(self) -> str:
        return self.caller.user

    @property
    def project(self) -> str:
        return self.caller.project

    @property
    def roles(self) -> frozenset[str]:
        return self.caller.roles


def is_permitted(identity: Identity, rule: str, project: str | None = None) -> bool:
    """Whether ``identity`` may, on a target of ``project`` (None: its own)."""
    return identity.rules.allow(identity.caller, rule, identity.project if project is None else project)
