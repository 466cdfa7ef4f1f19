"""Judges what became of events: the store has each that was committed, exactly once and in order, and so has heard whoever listens."""

from collections import Counter
from collections.abc import Iterator

from compute_agent.contract.notifications import RECORDER_QUEUES
from tests.chaos.history import Line, What
from tests.chaos.record import Record, Violation


def check_events(record: Record) -> Iterator[Violation]:
    yield from _check_recorded(record)
    yield from _check_lost(record)
    yield from _check_known(record)
    yield from _check_order(record)
    yield from _check_second_consumer(record)


def _check_recorded(record: Record) -> Iterator[Violation]:
    """Every committed event, once."""
    recorded = Counter(event["message_id"] for event in record.lines[What.EVENT])
    for message_id, count in recorded.items():
        if count > 1:
            yield Violation(5, f"event {message_id} is in the store {count} times", record.end)
    lost = _list_lost(record)
    for event in record.lines[What.JOURNALLED_EVENT]:
        named = any(_is_named(event, line) for line in lost)
        is_kept_back = event.get("second") and not event["sent"]
        if event["message_id"] not in recorded and not named and not is_kept_back and not _went_with_journal(record, event):
            text = f"event {event['type']} {event['sequence']} of {event['host']} ({event['epoch']}) was committed and is not in the store"
            yield Violation(5, text, record.end)
    for line in record.lines[What.OUTBOX]:
        if line["message_id"] not in recorded:
            yield Violation(5, f"the gateway's own event {line['type']} {line['message_id']} is not in the store", record.end)


def _went_with_journal(record: Record, event: Line) -> bool:
    """Whether it was nowhere but in a journal that an operator deleted: what the broker had confirmed was elsewhere too, until that was
    destroyed as well."""
    if not event["destroyed"] or not event["sent"]:
        return bool(event["destroyed"])
    since = (event.get("occurred_at") or 0.0) - record.find_clock_error(event["host"], record.begin, record.end)
    return any(line["at"] >= since for what in (What.PURGED, What.RESTORED) for line in record.lines[what])


def _check_lost(record: Record) -> Iterator[Violation]:
    """What is named as lost was destroyed after it had happened: with its journal, in a queue of the recorder's, or with the store."""
    destroyed = {event["epoch"] for event in record.lines[What.JOURNALLED_EVENT] if event["destroyed"]}
    queues = {queue.name for queue in RECORDER_QUEUES}
    moments = [line["at"] for line in record.lines[What.PURGED] if line["queue"] in queues]
    moments += [line["at"] for line in record.lines[What.RESTORED]]
    for line in _list_lost(record):
        in_range = [event for event in record.lines[What.JOURNALLED_EVENT] if _is_named(event, line)]  # whose end may be left open
        since = min((event["occurred_at"] for event in in_range if event.get("occurred_at")), default=0.0)
        if in_range:
            since -= record.find_clock_error(in_range[0]["host"], record.begin, record.end)
        is_explained = any(since <= at <= line["recorded_at"] for at in moments)
        if not is_explained and line["lost_epoch"] not in destroyed:
            text = f"events {line['first']} to {line['last']} of {line['lost_epoch']} are called lost, and nobody destroyed anything"
            yield Violation(5, text, line["recorded_at"])


def _check_known(record: Record) -> Iterator[Violation]:
    """What the store has was committed by somebody, or is poison that can be read."""
    known = {
        line["message_id"]
        for what in (What.JOURNALLED_EVENT, What.OUTBOX, What.POISON)
        for line in record.lines[what]
        if "message_id" in line
    }
    outbox = {line["message_id"] for line in record.lines[What.OUTBOX]}
    own_epochs = {event["epoch"] for event in record.lines[What.EVENT] if event["message_id"] in outbox}
    for event in record.lines[What.EVENT]:
        # The gateway's own that was published after a backup: the outbox that it came from went when that was restored.
        is_former = event["epoch"] in own_epochs and record.is_newer_than_backup(event["occurred_at"] or event["recorded_at"])
        if event["message_id"] not in known and not is_former:
            text = f"event {event['type']} {event['message_id']} of {event['host']} is in the store and was never committed"
            yield Violation(5, text, event["recorded_at"])


def _check_order(record: Record) -> Iterator[Violation]:
    """Per server and host. What was destroyed and sent again comes when it comes."""
    shaken = [line["at"] for what in (What.PURGED, What.RESTORED) for line in record.lines[what]]
    last: dict[tuple[str, str, str | None], Line] = {}
    for event in record.lines[What.EVENT]:
        if event["sequence"] is None or event["host"] is None:
            continue
        place = (event["host"], event["epoch"], event["server"])
        before = last.get(place)
        if before is None or event["sequence"] > before["sequence"]:
            last[place] = event
            continue
        occurred_at = event["occurred_at"] or event["recorded_at"]
        if not any(occurred_at - record.setup["skew"] <= at <= event["recorded_at"] for at in shaken):
            text = f"event {event['type']} {event['sequence']} of {place} was recorded after {before['sequence']}"
            yield Violation(5, text, event["recorded_at"])


def _check_second_consumer(record: Record) -> Iterator[Violation]:
    known = {line["message_id"] for what in (What.HEARD, What.POISON) for line in record.lines[what] if "message_id" in line}
    for event in record.lines[What.EVENT]:
        if event["message_id"] not in known:
            text = f"event {event['type']} {event['message_id']} of {event['host']} is in the store, and the second consumer never heard it"
            yield Violation(6, text, event["recorded_at"])


def _list_lost(record: Record) -> list[Line]:
    return [event for event in record.lines[What.EVENT] if event["type"] == "events.lost"]


def _is_named(event: Line, lost: Line) -> bool:
    return bool(lost["lost_epoch"] == event["epoch"] and lost["first"] <= event["sequence"] <= lost["last"])
