"""What others saw: a second consumer of the events (6), and the projects (7)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from api_gateway.store.event_listing import EventFilters, list_page
from compute_agent.contract.notifications import Notification, UnreadableNotification, decode
from tests.simulation.quick_store import QuickStore

if TYPE_CHECKING:
    from tests.simulation.invariants import Record
    from tests.simulation.world import World

ADMINS_ONLY = ("agent.", "events.")
"""Types that are about hosts: no project is shown them."""


def check_second_consumer(world: "World", record: "Record") -> Iterator[str]:
    """It saw every event that the store has, as the store has it, and never two events under one name."""
    seen: dict[str, Notification] = {}
    for body in world.broker.published:
        try:
            notification = decode(body)
        except UnreadableNotification:
            continue
        first = seen.setdefault(notification.message_id, notification)
        if (first.event_type, first.payload) != (notification.event_type, notification.payload):
            yield f"{notification.message_id} is a {first.event_type} and a {notification.event_type}: whoever knows one drops the other"
    for event in record.events:
        notification_seen = seen.get(event["message_id"])
        if notification_seen is None or notification_seen.event_type != event["event_type"]:
            yield f"event {event['event_type']} {event['message_id']} is in the store, and a second consumer never saw it"


def check_cursors(world: "World", record: "Record") -> Iterator[str]:
    """Nothing was recorded at a position that readers had been at before the store was restored: they would never see it."""
    for event in record.events:
        if any(event["position"] in forgotten for forgotten in world.backup.forgotten.positions):
            yield f"event {event['event_type']} {event['message_id']} has the position {event['position']}, which was given out before"


def check_projects(world: "World", _record: "Record") -> Iterator[str]:
    """Each event that a project may list is about a server of its own, told by a host that has or had it, or by the gateway."""
    hosts: dict[str, set[str]] = {guest.id: set(guest.hosts) for guest in world.list_guests()}
    projects = {guest.id: guest.project for guest in world.list_guests()}
    store = QuickStore(world.gateway.url)
    shown = []
    with store.read() as c:
        for project in sorted(set(projects.values())):
            page = list_page(c, EventFilters(project=project), limit=1_000_000, effort=1_000_000)
            shown += [(project, event) for event in page.events]
    for project, event in shown:
        if event.server is None or event.event_type.startswith(ADMINS_ONLY):
            yield f"{event.event_type} {event.message_id} is about a host, and {project} was shown it"
        elif projects.get(event.server) != project:
            yield f"{event.event_type} {event.message_id} is about a server of {projects.get(event.server)}, {project} was shown it"
        elif event.epoch != store.store_id and event.host not in hosts[event.server]:
            yield f"{event.event_type} {event.message_id} was told by {event.host}, which never had the server, and {project} was shown it"
    store.dispose()
