"""The routes of our own API."""

from api_gateway.native import actions, agents, black_box, diagnostics, healthcheck, servers, watchdog_models, watchdogs
from api_gateway.routing import Route

ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthcheck", healthcheck.check_health),
    Route("HEAD", "/healthcheck", healthcheck.check_health),
    Route("GET", "/v1/actions/{action_id}", actions.show_action),
    Route("GET", "/v1/servers", servers.list_servers),
    Route("GET", "/v1/servers/{server_id}", servers.show_server),
    Route("PATCH", "/v1/servers/{server_id}", servers.update_server),
    Route("DELETE", "/v1/servers/{server_id}", servers.forget_server),
    Route("GET", "/v1/servers/{server_id}/actions", actions.list_actions),
    Route("POST", "/v1/servers/{server_id}/actions", actions.create_action),
    Route("GET", "/v1/servers/{server_id}/diagnostics", diagnostics.show_diagnostics),
    Route("GET", "/v1/servers/{server_id}/watchdog", watchdogs.show_watchdog),
    Route("PUT", "/v1/servers/{server_id}/watchdog", watchdogs.set_watchdog),
    Route("DELETE", "/v1/servers/{server_id}/watchdog", watchdogs.remove_watchdog),
    Route("GET", "/v1/watchdog-models", watchdog_models.list_models),
    Route("POST", "/v1/diagnostics", diagnostics.collect_diagnostics),
    Route("GET", "/v1/events/{event_id}/black-box", black_box.show_black_box),
    Route("GET", "/v1/events/{event_id}/black-box/{part}", black_box.fetch_part),
    Route("GET", "/v1/agents", agents.list_agents),
)
