"""The operations of our own API, of the healthcheck, and of the document itself."""

from api_gateway.native.events import ORDERS
from api_gateway.native.server_query import EVENT_TYPE_PATTERN
from api_gateway.native.times import TIME_PATTERN
from api_gateway.openapi.event_parameters import EVENT_FILTERS, LAST_EVENT_ID, POSITION
from api_gateway.openapi.native_bodies import ACTION_BODY, COLLECT_BODY, IDEMPOTENCY_KEY, OVERLAY_BODY, SECONDS_TO_LIVE, WATCHDOG_BODY
from api_gateway.openapi.operation import Answer, Operation, Operations, Schema, refer
from api_gateway.openapi.parameters import LIMIT, describe_query
from api_gateway.openapi.words import COUNT, REQUEST_ID, SERVER_ID, STRING, URI
from api_gateway.vm_state import LIVING_STATUSES

_TAG = "crashcart"

_ACTION_LOCATION: dict[str, Schema] = {"Location": URI}
_ASKED = {
    200: Answer("The action that the same idempotency key made before; it has ended.", refer("Action"), _ACTION_LOCATION),
    202: Answer("The action is committed and will end.", refer("Action"), _ACTION_LOCATION),
}
_TIME: Schema = {"type": "string", "format": "date-time", "pattern": TIME_PATTERN}

NATIVE_OPERATIONS: Operations = {
    ("GET", "/openapi.json"): Operation(
        id="show_openapi",
        tag=_TAG,
        summary="This document",
        answers={200: Answer("Both APIs, for machines.", refer("OpenApi"))},
        needs_store=False,
    ),
    ("GET", "/healthcheck"): Operation(
        id="check_health",
        tag=_TAG,
        summary="Say whether requests can be served",
        answers={200: Answer("They can.", refer("Health"))},
        is_open=True,
    ),
    ("HEAD", "/healthcheck"): Operation(
        id="check_health_briefly",
        tag=_TAG,
        summary="Say whether requests can be served, by the status alone",
        answers={200: Answer("They can.")},
        is_open=True,
    ),
    ("GET", "/v1/actions/{action_id}"): Operation(
        id="show_action",
        tag=_TAG,
        summary="Show an action: its ending, what was seen of the guest, and the timeline",
        answers={200: Answer("The action, with what came of it as far as the caller may see that.", refer("ShownAction"))},
        faults=(404,),
        parameters=(
            describe_query(
                "wait",
                {"type": "number", "minimum": 0},
                "Answer when the action is settled, at the latest after so many seconds, with what is known then.",
            ),
        ),
    ),
    ("POST", "/v1/actions/{action_id}/cancel"): Operation(
        id="cancel_action",
        tag=_TAG,
        summary="Call off an action that has not begun; once more changes nothing",
        answers={
            200: Answer("It has ended as cancelled.", refer("Action")),
            202: Answer("Its agent is told, and its ending says whether that came in time.", refer("Action")),
        },
        faults=(404, 409),
    ),
    ("GET", "/v1/servers"): Operation(
        id="list_known_servers",
        tag=_TAG,
        summary="List servers with their watchdogs, newest first; admins see those of all projects",
        answers={200: Answer("A page of servers; the next one is linked when this one is full.", refer("ListedServers"))},
        parameters=(
            LIMIT,
            describe_query("marker", SERVER_ID, "The id of the last server of the page before."),
            describe_query("name", {"type": "string", "format": "regex"}, "A regular expression that the name must contain."),
            describe_query("status", {"enum": sorted(LIVING_STATUSES)}, "Only those with this status."),
            describe_query("project", STRING, "Only those of this project."),
            describe_query("host", STRING, "Only those on this host; for those who may see where servers are."),
            describe_query("last_event_since", _TIME, "Only those that something happened to then or later."),
            describe_query(
                "last_event_type",
                {"type": "string", "pattern": EVENT_TYPE_PATTERN},
                "Only those that have had such an event, since last_event_since if that is given; without it any server.* counts.",
            ),
        ),
    ),
    ("GET", "/v1/servers/{server_id}"): Operation(
        id="show_known_server",
        tag=_TAG,
        summary="Show what is known of a server; admins also see what its host says and what is set over it",
        answers={200: Answer("The server.", refer("KnownServer"))},
        faults=(404,),
    ),
    ("PATCH", "/v1/servers/{server_id}"): Operation(
        id="update_server",
        tag=_TAG,
        summary="Set facts over what a server's host says, or take them back with null",
        answers={200: Answer("The server as it is now.", refer("KnownServer"))},
        faults=(404,),
        body=OVERLAY_BODY,
    ),
    ("DELETE", "/v1/servers/{server_id}"): Operation(
        id="forget_server",
        tag=_TAG,
        summary="Forget a server whose host is gone",
        answers={204: Answer("It is deleted; its history stays.")},
        faults=(404, 409),
    ),
    ("GET", "/v1/servers/{server_id}/actions"): Operation(
        id="list_actions",
        tag=_TAG,
        summary="List a server's actions, newest first",
        answers={200: Answer("A page of actions; the next one is linked when this one is full.", refer("Actions"))},
        faults=(404,),
        parameters=(LIMIT, describe_query("marker", REQUEST_ID, "The id of the last action of the page before.")),
    ),
    ("POST", "/v1/servers/{server_id}/actions"): Operation(
        id="create_action",
        tag=_TAG,
        summary="Ask for an action on a server",
        answers=_ASKED,
        faults=(404, 409, 429),
        body=ACTION_BODY,
    ),
    ("GET", "/v1/servers/{server_id}/watchdog"): Operation(
        id="show_watchdog",
        tag=_TAG,
        summary="Show a server's watchdog: configured, and in the running machine",
        answers={200: Answer("By its host's last word.", refer("ShownWatchdog"))},
        faults=(404, 409, 501),
    ),
    ("PUT", "/v1/servers/{server_id}/watchdog"): Operation(
        id="set_watchdog",
        tag=_TAG,
        summary="Give a server a watchdog, in place of the one that it has",
        answers=_ASKED,
        faults=(404, 409, 429),
        body=WATCHDOG_BODY,
    ),
    ("DELETE", "/v1/servers/{server_id}/watchdog"): Operation(
        id="remove_watchdog",
        tag=_TAG,
        summary="Take a server's watchdog away",
        answers=_ASKED,
        faults=(404, 409, 429),
        parameters=(
            describe_query("deadline_seconds", SECONDS_TO_LIVE, "How long the action may wait for its agent."),
            describe_query("idempotency_key", IDEMPOTENCY_KEY, "The same key again asks for nothing new."),
        ),
    ),
    ("GET", "/v1/watchdog-models"): Operation(
        id="list_watchdog_models",
        tag=_TAG,
        summary="List the watchdogs that there are, or those of one server's platform",
        answers={200: Answer("The models with what each can do when it fires.", refer("WatchdogModels"))},
        faults=(404, 409, 501),
        parameters=(describe_query("server_id", SERVER_ID, "Of this server's platform, and whether this server can be given them."),),
    ),
    ("GET", "/v1/servers/{server_id}/diagnostics"): Operation(
        id="show_diagnostics",
        tag=_TAG,
        summary="Show a server's diagnostics, how old they are, and whatever could not be read",
        answers={200: Answer("The diagnostics.", refer("ToldDiagnostics"))},
        faults=(404, 409, 501),
        parameters=(describe_query("history", COUNT, "With so many of the samples that the agent has kept, oldest first."),),
    ),
    ("POST", "/v1/diagnostics"): Operation(
        id="collect_diagnostics",
        tag=_TAG,
        summary="Have the diagnostics of many servers collected and published as events",
        answers={202: Answer("An action for each server that can have one, and why the others cannot.", refer("CollectingDiagnostics"))},
        body=COLLECT_BODY,
    ),
    ("GET", "/v1/events"): Operation(
        id="list_events",
        tag=_TAG,
        summary="List what happened, in the order in which it was recorded",
        answers={200: Answer("A page of events. It may hold less than was asked for while a next one is linked.", refer("Events"))},
        parameters=(
            *EVENT_FILTERS,
            LIMIT,
            describe_query("after", POSITION, "The position behind which the page begins, in the order that is asked for."),
            describe_query("order", {"enum": list(ORDERS)}, "By ascending position, or newest first."),
        ),
    ),
    ("GET", "/v1/events/stream"): Operation(
        id="open_event_stream",
        tag=_TAG,
        summary="Be told of events as they are recorded",
        answers={
            307: Answer(
                "To where the events are told as server-sent events, for a short time after this answer. A message's id is the event's "
                "position, its event the type, its data an Event. When it ends, come here again with the last id.",
                headers={"Location": URI, "Cache-Control": {"const": "no-store"}},
            )
        },
        parameters=(
            *EVENT_FILTERS,
            describe_query("after", POSITION, "The position behind which the stream begins; without it the stream begins now."),
            LAST_EVENT_ID,
        ),
    ),
    ("GET", "/v1/events/{event_id}"): Operation(
        id="show_event",
        tag=_TAG,
        summary="Show an event",
        answers={200: Answer("The event.", refer("Event"))},
        faults=(404,),
    ),
    ("GET", "/v1/events/{event_id}/black-box"): Operation(
        id="show_black_box",
        tag=_TAG,
        summary="Show what a host kept of a server that crashed",
        answers={200: Answer("Its parts with their sizes and digests.", refer("BlackBox"))},
        faults=(404,),
    ),
    ("GET", "/v1/events/{event_id}/black-box/{part}"): Operation(
        id="fetch_black_box_part",
        tag=_TAG,
        summary="Fetch one part of a black box from its host",
        answers={200: Answer("The part: of the size and digest that the event said.", media_type="application/octet-stream")},
        faults=(404, 409),
    ),
    ("GET", "/v1/agents"): Operation(
        id="list_agents",
        tag=_TAG,
        summary="List the agents: what each can do and whether it is up",
        answers={200: Answer("All of them.", refer("Agents"))},
    ),
}
