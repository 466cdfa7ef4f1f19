"""What a mail about an event says: a line that one can act on, plain sentences, and the event itself."""

import json
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any

from api_gateway.deliveries.outcome import Message

_LONGEST_SUBJECT = 200
_SENTENCES = ("text", "reason")
"""Fields of a payload that may hold a sentence for people."""


def build_mail(message: Message, *, sender: str, at: datetime) -> EmailMessage:
    """The same event for the same subscriber has the same Message-ID at each try."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address("crashcart", addr_spec=sender)
    mail["To"] = Address(addr_spec=message.subscription.target)
    mail["Subject"] = build_subject(message)
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = f"<{message.delivery}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(build_text(message))
    return mail


def build_subject(message: Message) -> str:
    """In one line, whatever a server is called."""
    event = message.event
    about = message.server_name or event["server"] or event.get("host") or ""
    return _make_line(f"[crashcart] {str(event['severity']).upper()} {event['type']} {about}")[:_LONGEST_SUBJECT]


def build_text(message: Message) -> str:
    event, subscription = message.event, message.subscription.id
    lines = [f"crashcart recorded an event of the type {event['type']}, severity {event['severity']}.", "", _say_about(message)]
    lines += [f"It happened at {event['occurred_at'] or 'an unknown time'} and was recorded at {event['recorded_at']}."]
    payload = event["payload"] or {}
    lines += ["", *said] if (said := [text for name in _SENTENCES if isinstance(text := payload.get(name), str) and text]) else []
    lines += ["", "The whole event:", "", json.dumps(event, indent=2), "", "-- "]
    lines += [f"You are told because of the subscription {subscription}; DELETE /v1/subscriptions/{subscription} ends it.", ""]
    return "\n".join(lines).encode(errors="replace").decode()  # JSON has halves of letters, which no mail can


def _say_about(message: Message) -> str:
    event: dict[str, Any] = message.event
    host = f" on the host {event['host']}" if event.get("host") else ""
    if event["server"] is None:
        return _make_line(f"It is about no server{f', but about what runs{host}' if host else ''}.")
    name = f"{message.server_name} ({event['server']})" if message.server_name else event["server"]
    project = f" of the project {event['project']}" if event["project"] else ""
    return _make_line(f"It is about the server {name}{project}{host}.")


def _make_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
