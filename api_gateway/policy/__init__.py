"""Who may do what: the step ``permit`` that every handler takes.

The rules and their defaults are in ``defaults.py``; ``rule_set.py`` evaluates them with oslo.policy. Whether a server can be *seen* is no
rule but visibility: another project's server does not exist for anybody but an admin (``visibility.py``).
"""

from api_gateway.faults import forbidden
from api_gateway.identity import Identity, is_permitted

__all__ = ["is_permitted", "permit"]


def permit(identity: Identity, rule: str, project: str | None = None) -> None:
    """Go on only if ``identity`` may.

    :raises Fault: 403 naming the rule.
    """
    if not is_permitted(identity, rule, project):
        raise forbidden(f"Policy doesn't allow {rule} to be performed.")
