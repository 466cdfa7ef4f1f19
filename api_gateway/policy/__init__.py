"""Who may do what: the step ``permit`` that every handler takes.

The rules and their defaults are in ``defaults.py``; ``rule_set.py`` evaluates them with oslo.policy. Whether a server can be *seen* is no
rule but visibility: another project's server does not exist for anybody but an admin (``visibility.py``).
"""

from api_gateway.faults import forbidden
from api_gateway.identity import Identity


def is_permitted(identity: Identity, rule: str, project: str | None = None) -> bool:
    """Whether ``identity`` may, on a target of ``project`` (None: its own)."""
    return identity.rules.allow(identity.caller, rule, identity.project if project is None else project)


def permit(identity: Identity, rule: str, project: str | None = None) -> None:
    """Go on only if ``identity`` may.

    :raises Fault: 403 naming the rule.
    """
    if not is_permitted(identity, rule, project):
        raise forbidden(f"Policy doesn't allow {rule} to be performed.")
