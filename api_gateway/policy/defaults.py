"""The rules and their defaults, as code: those of the Compute API where it has them, and ours under ``crashcart:``.

Operators override them in ``policy.yaml``; oslo.policy's tools and ``doc/policy.rst`` read this table.
"""

from oslo_policy.policy import DocumentedRuleDefault, Operation, RuleDefault

ADMIN = "context_is_admin"
"""Evaluated once for each request: whoever it lets in sees all projects and passes locks."""

_ADMIN = f"rule:{ADMIN}"
_MEMBER = "rule:project_member_or_admin"
_READER = "rule:project_reader_or_admin"

_SERVER = "/v2.1/servers/{server_id}"
_ACTIONS = f"{_SERVER}/os-instance-actions"

_PARTS: tuple[tuple[str, str, str], ...] = (
    (ADMIN, "role:admin", "Who is an admin: sees the servers of all projects and passes locks."),
    ("project_member_api", "role:member and project_id:%(project_id)s", "A member of the project that owns the target."),
    ("project_reader_api", "role:reader and project_id:%(project_id)s", "A reader of the project that owns the target."),
    ("project_member_or_admin", f"rule:project_member_api or {_ADMIN}", "Default of what changes something in a project."),
    ("project_reader_or_admin", f"rule:project_reader_api or {_ADMIN}", "Default of what only shows something of a project."),
)

_RULES: tuple[tuple[str, str, str, str], ...] = (
    ("os_compute_api:servers:index", _READER, "List servers.", "GET /v2.1/servers"),
    ("os_compute_api:servers:detail", _READER, "List servers with their details.", "GET /v2.1/servers/detail"),
    ("os_compute_api:servers:show", _READER, "Show a server.", f"GET {_SERVER}"),
    ("os_compute_api:servers:index:get_all_tenants", _ADMIN, "List the servers of all projects.", "GET /v2.1/servers"),
    ("os_compute_api:servers:detail:get_all_tenants", _ADMIN, "List the servers of all projects with details.", "GET /v2.1/servers/detail"),
    (
        "os_compute_api:servers:show:host_status",
        _ADMIN,
        "See whether the agent of a server's host is up.",
        f"GET {_SERVER}, GET /v2.1/servers/detail",
    ),
    (
        "os_compute_api:os-extended-server-attributes",
        _ADMIN,
        "See on which host a server is and what it is called there, and on which host an action was carried out or an event happened.",
        f"GET {_SERVER}, GET /v2.1/servers/detail, GET /v1/servers, GET /v1/servers/{{server_id}}, "
        "GET /v1/servers/{server_id}/actions, GET /v1/actions/{action_id}, GET /v1/events, GET /v1/events/{event_id}, "
        "GET /v1/events/stream",
    ),
    (
        "os_compute_api:servers:trigger_crash_dump",
        _MEMBER,
        "Send an NMI to a server.",
        f"POST {_SERVER}/action, POST /v1/servers/{{server_id}}/actions",
    ),
    ("os_compute_api:os-server-diagnostics", _ADMIN, "See a server's diagnostics.", f"GET {_SERVER}/diagnostics"),
    ("os_compute_api:os-lock-server:lock", _MEMBER, "Lock a server.", f"POST {_SERVER}/action"),
    ("os_compute_api:os-lock-server:unlock", _MEMBER, "Unlock a server that was locked from its own project.", f"POST {_SERVER}/action"),
    ("os_compute_api:os-lock-server:unlock:unlock_override", _ADMIN, "Unlock a server whoever locked it.", f"POST {_SERVER}/action"),
    ("os_compute_api:os-instance-actions:list", _READER, "List a server's actions.", f"GET {_ACTIONS}"),
    ("os_compute_api:os-instance-actions:show", _READER, "Show one action of a server.", f"GET {_ACTIONS}/{{request_id}}"),
    (
        "os_compute_api:os-instance-actions:events",
        _ADMIN,
        "See an action's events with host and traceback.",
        f"GET {_ACTIONS}/{{request_id}}",
    ),
    (
        "os_compute_api:os-instance-actions:events:details",
        _ADMIN,
        "See why an event of an action failed.",
        f"GET {_ACTIONS}/{{request_id}}",
    ),
    (
        "crashcart:servers:list",
        _READER,
        "List servers with their watchdogs, also by what happened to them.",
        "GET /v1/servers",
    ),
    (
        "crashcart:servers:show",
        _READER,
        "Show a server with what its host says and what an admin set.",
        "GET /v1/servers/{server_id}",
    ),
    ("crashcart:servers:update", _ADMIN, "Set what a hypervisor cannot know about a server.", "PATCH /v1/servers/{server_id}"),
    ("crashcart:servers:forget", _ADMIN, "Forget a server whose host is gone.", "DELETE /v1/servers/{server_id}"),
    ("crashcart:actions:show", _READER, "Show an action with its observation and timeline.", "GET /v1/actions/{action_id}"),
    ("crashcart:actions:list", _READER, "List a server's actions with their observations.", "GET /v1/servers/{server_id}/actions"),
    (
        "crashcart:actions:cancel",
        _MEMBER,
        "Call off an action that has not begun; who does must be allowed to ask for such an action, too.",
        "POST /v1/actions/{action_id}/cancel",
    ),
    (
        "crashcart:actions:force",
        _ADMIN,
        "Send an NMI although an earlier crash dump may still be running.",
        "POST /v1/servers/{server_id}/actions",
    ),
    (
        "crashcart:actions:take_host_dump",
        _ADMIN,
        "Have the hypervisor write a server's memory to a file on its host, and see where.",
        "POST /v1/servers/{server_id}/actions, GET /v1/actions/{action_id}, GET /v1/events, GET /v1/events/{event_id}, "
        "GET /v1/events/stream",
    ),
    (
        "crashcart:actions:resume",
        _MEMBER,
        "Let a paused server run again.",
        "POST /v1/servers/{server_id}/actions",
    ),
    (
        "crashcart:watchdog:show",
        _READER,
        "See a server's watchdog.",
        "GET /v1/servers/{server_id}/watchdog, GET /v1/servers/{server_id}, GET /v1/servers",
    ),
    ("crashcart:watchdog:set", _MEMBER, "Give a server a watchdog, or another one.", "PUT /v1/servers/{server_id}/watchdog"),
    ("crashcart:watchdog:remove", _MEMBER, "Take a server's watchdog away.", "DELETE /v1/servers/{server_id}/watchdog"),
    ("crashcart:watchdog:reset_timer", _MEMBER, "Feed a server's watchdog from outside.", "POST /v1/servers/{server_id}/actions"),
    (
        "crashcart:watchdog_models:list",
        _READER,
        "List the watchdogs that there are, or those that a server can be given.",
        "GET /v1/watchdog-models",
    ),
    (
        "crashcart:diagnostics:show",
        _ADMIN,
        "See a server's diagnostics with their age and history, and those that an action collected.",
        "GET /v1/servers/{server_id}/diagnostics, GET /v1/actions/{action_id}, GET /v1/events, GET /v1/events/{event_id}, "
        "GET /v1/events/stream",
    ),
    (
        "crashcart:diagnostics:collect",
        _ADMIN,
        "Have the diagnostics of servers collected and published as events.",
        "POST /v1/diagnostics, POST /v1/servers/{server_id}/actions",
    ),
    ("crashcart:events:list", _READER, "List the events of one's own project; an admin those of all.", "GET /v1/events"),
    ("crashcart:events:show", _READER, "Show an event of one's own project; an admin any.", "GET /v1/events/{event_id}"),
    (
        "crashcart:events:stream",
        _READER,
        "Be told of the events of one's own project as they are recorded; an admin of all.",
        "GET /v1/events/stream",
    ),
    (
        "crashcart:black_box:show",
        _ADMIN,
        "See and fetch what a host kept of a server that crashed.",
        "GET /v1/events/{event_id}/black-box, GET /v1/events/{event_id}/black-box/{part}, GET /v1/events, GET /v1/events/{event_id}, "
        "GET /v1/events/stream",
    ),
    ("crashcart:subscriptions:list", _READER, "List subscriptions to events.", "GET /v1/subscriptions"),
    ("crashcart:subscriptions:show", _READER, "Show a subscription.", "GET /v1/subscriptions/{subscription_id}"),
    ("crashcart:subscriptions:create", _MEMBER, "Have events told by webhook or e-mail.", "POST /v1/subscriptions"),
    ("crashcart:subscriptions:delete", _MEMBER, "End a subscription.", "DELETE /v1/subscriptions/{subscription_id}"),
    (
        "crashcart:subscriptions:deliveries",
        _READER,
        "See what a subscriber was told.",
        "GET /v1/subscriptions/{subscription_id}/deliveries",
    ),
    ("crashcart:agents:list", _ADMIN, "List the agents.", "GET /v1/agents"),
)
"""Name, default, what it lets one do, and where it is asked."""


def list_rules() -> list[RuleDefault]:
    """All rules, for the enforcer and for oslo.policy's generators (entry point ``oslo.policy.policies``)."""
    parts = [RuleDefault(name, check, description=meaning) for name, check, meaning in _PARTS]
    rules = [
        DocumentedRuleDefault(
            name,
            check,
            meaning,
            [_describe_operation(operation) for operation in operations.split(", ")],
            scope_types=["project"],
        )
        for name, check, meaning, operations in _RULES
    ]
    return [*parts, *rules]


def _describe_operation(text: str) -> Operation:
    method, _, path = text.partition(" ")
    return {"method": method, "path": path}
