"""Who may do what: the rules as one table, and the step ``permit`` that every handler takes.

The rules and their defaults are those of the Compute API where it has them. Whether a server can be *seen* is no rule but visibility:
another project's server does not exist for anybody but an admin (``visibility.py``).
"""

from dataclasses import dataclass

from api_gateway.faults import forbidden
from api_gateway.identity import Identity


@dataclass(frozen=True)
class Rule:
    """``role`` in the project that owns the target; an admin always may. ``role`` None: only an admin."""

    role: str | None
    meaning: str


RULES: dict[str, Rule] = {
    "os_compute_api:servers:index": Rule("reader", "list servers"),
    "os_compute_api:servers:detail": Rule("reader", "list servers with their details"),
    "os_compute_api:servers:show": Rule("reader", "show a server"),
    "os_compute_api:servers:index:get_all_tenants": Rule(None, "list the servers of all projects"),
    "os_compute_api:servers:detail:get_all_tenants": Rule(None, "list the servers of all projects with their details"),
    "os_compute_api:servers:show:host_status": Rule(None, "see whether the agent of a server's host is up"),
    "os_compute_api:os-extended-server-attributes": Rule(None, "see on which host a server is and what it is called there"),
    "os_compute_api:servers:trigger_crash_dump": Rule("member", "send an NMI to a server"),
    "os_compute_api:os-instance-actions:list": Rule("reader", "list a server's actions"),
    "os_compute_api:os-instance-actions:show": Rule("reader", "show one action of a server"),
    "os_compute_api:os-instance-actions:events": Rule(None, "see an action's events with host and traceback"),
    "os_compute_api:os-instance-actions:events:details": Rule(None, "see why an event of an action failed"),
    "os_compute_api:os-server-diagnostics": Rule(None, "see a server's diagnostics"),
    "os_compute_api:os-lock-server:lock": Rule("member", "lock a server"),
    "os_compute_api:os-lock-server:unlock": Rule("member", "unlock a server that was locked from its own project"),
    "os_compute_api:os-lock-server:unlock:unlock_override": Rule(None, "unlock a server whoever locked it"),
    "crashcart:servers:show": Rule("reader", "show a server with what its host says and what an admin set"),
    "crashcart:servers:update": Rule(None, "set what a hypervisor cannot know about a server"),
    "crashcart:servers:forget": Rule(None, "forget a server whose host is gone"),
    "crashcart:actions:show": Rule("reader", "show an action with its observation and timeline"),
    "crashcart:actions:list": Rule("reader", "list a server's actions with their observations"),
    "crashcart:actions:force": Rule(None, "send an NMI although an earlier crash dump may still be running"),
    "crashcart:agents:list": Rule(None, "list the agents"),
}


def is_permitted(identity: Identity, rule: str, project: str | None = None) -> bool:
    """Whether ``identity`` may, on a target of ``project`` (None: its own)."""
    if identity.is_admin:
        return True
    role = RULES[rule].role
    return role is not None and role in identity.roles and (project is None or project == identity.project)


def permit(identity: Identity, rule: str, project: str | None = None) -> None:
    """Go on only if ``identity`` may.

    :raises Fault: 403 naming the rule.
    """
    if not is_permitted(identity, rule, project):
        raise forbidden(f"Policy doesn't allow {rule} to be performed.")
