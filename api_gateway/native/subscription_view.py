"""Subscriptions and deliveries as ``/v1`` shows them. A secret is in none of them."""

from typing import Any

from api_gateway.native.subscription_body import TARGET_FIELDS
from api_gateway.native.times import format_time
from api_gateway.store.deliveries import ListedDelivery
from api_gateway.store.matching import DeliveryState
from api_gateway.store.subscriptions import SubscriptionRow


def view_subscription(row: SubscriptionRow) -> dict[str, Any]:
    """``types`` null: every type. ``failing_since``: since when its target has taken nothing."""
    return {
        "id": row.id,
        "project": row.project,
        "user": row.user,
        "types": list(row.types) or None,
        "severity": row.severity,
        "server": row.server,
        "target": {"kind": row.target_kind, TARGET_FIELDS[row.target_kind]: row.target},
        "created_at": format_time(row.created_at),
        "failing_since": format_time(row.failing_since),
    }


def view_delivery(listed: ListedDelivery) -> dict[str, Any]:
    """``event`` null: it is not kept any more."""
    row = listed.delivery
    event = {"id": listed.message_id, "type": listed.event_type, "severity": listed.severity, "server": listed.server}
    return {
        "position": row.position,
        "event": None if listed.message_id is None else event,
        "state": row.state,
        "tries": row.tries,
        "created_at": format_time(row.created_at),
        "try_at": format_time(row.try_at) if row.state == DeliveryState.WAITING else None,
        "last_tried_at": format_time(row.last_tried_at),
        "last_error": row.last_error,
        "settled_at": format_time(row.settled_at),
    }
