"""Judges a run by its history alone: which of the promises were broken, and when.

The numbers are those of ``doc/reliability.rst``; 0 is what belongs to none of them and must not be: nothing may stay open or untold once
the faults are over, no process may log what it did not expect, nor count what must never happen.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from compute_agent.contract.errors import CODES, Code, Ending
from tests.chaos.event_checks import check_events
from tests.chaos.guest_checks import check_guests
from tests.chaos.history import CRASH_DUMP, Line, What
from tests.chaos.log_checks import check_logs
from tests.chaos.record import FOR_EVER, Record, Violation

_NO_ROOM = re.compile("disk I/O error|disk is full|No space left on device")
"""What a program says that ends because it cannot start on a full disk: its supervisor starts it again and again (``operations.rst``)."""
_CHANGES = frozenset({"set_watchdog", "remove_watchdog"})
_SWEEP = 9.0
"""Seconds that the gateway may take to see that a grace is over, and to write it down on a busy machine, where it may be held up alone."""
_UNNOTED = 0.5
"""Seconds of a standstill that may be missing in what is noted of it."""
_COME_BACK = 15.0
"""Seconds that the gateway may take, after what kept it from working is over, until it has seen to all that became due meanwhile; and twice
as long as its start took in peace."""
_KEEPERS = frozenset({"engine", "engine-2", "store", "database"})
"""Without these nobody writes an ending down."""


def validate(lines: Iterable[Line]) -> list[Violation]:
    """Every violation in a history."""
    return validate_record(Record.read(lines))


def validate_record(record: Record) -> list[Violation]:
    checks = (
        _check_accepted,
        _check_asked,
        _check_endings,
        _check_shown_endings,
        _check_punctuality,
        _check_signals,
        _check_holdoff,
        _check_deadlines,
        _check_truth,
        check_guests,
        check_events,
        _check_privacy,
        _check_rest,
        check_logs,
    )
    return [violation for check in checks for violation in check(record)]


# 1


def _check_accepted(record: Record) -> Iterator[Violation]:
    journalled = {line["id"] for line in record.lines[What.JOURNALLED_ACTION] if not line["destroyed"]}
    for answer in record.lines[What.ANSWER]:
        action = answer["action"]
        if action is None or action in record.rows:
            continue
        if not _is_newer_than_backup(record, answer):
            yield Violation(1, f"{action}: {answer['status']} was answered, and there is no row", answer["at"])
        elif action in journalled:
            yield Violation(1, f"{action}: its row went with the restored store, its agent has it, and it did not come back", answer["at"])


def _check_asked(record: Record) -> Iterator[Violation]:
    """Each row is what somebody asked for, and nothing was asked for once and done twice."""
    asked: dict[str, Line] = {}
    unanswered: dict[tuple[str, str], float] = {}
    by_key: dict[str, Line] = {}
    for answer in record.lines[What.ANSWER]:
        if answer["action"] is None:
            place = answer["server"], answer["kind"]
            unanswered[place] = min(unanswered.get(place, answer["asked_at"]), answer["asked_at"])
            continue
        asked[answer["action"]] = answer
        before = by_key.setdefault(answer["key"] or answer["action"], answer)
        # What was stored for the key went with the restored store; nobody knows on which side of the backup the first commit was.
        if before["action"] != answer["action"] and not _is_newer_than_backup(record, before):
            text = f"{answer['action']}: asked for with the key of {before['action']}, which was accepted already"
            yield Violation(1, text, answer["at"])
    for row in record.rows.values():
        of_row = asked.get(row["id"])
        if of_row is None:
            error = record.find_clock_error(row["host"], record.begin, record.end)
            if unanswered.get((row["server"], row["kind"]), FOR_EVER) > row["accepted_at"] + error:
                yield Violation(1, f"{row['id']}: {row['kind']} of {row['server']}, for which nobody asked", row["accepted_at"])
        elif (of_row["server"], of_row["kind"]) != (row["server"], row["kind"]):
            text = f"{row['id']}: {of_row['kind']} of {of_row['server']} was asked for, {row['kind']} of {row['server']} is stored"
            yield Violation(1, text, row["accepted_at"])


def _is_newer_than_backup(record: Record, answer: Line) -> bool:
    """Between question and answer: nobody knows on which side of the backup the commit was."""
    return record.is_newer_than_backup(answer["at"]) or record.is_newer_than_backup(answer["asked_at"])


# 2


def _check_endings(record: Record) -> Iterator[Violation]:
    journalled = {(line["id"], line["epoch"]): line for line in record.lines[What.JOURNALLED_ACTION]}
    for row in record.rows.values():
        at = row["accepted_at"]
        if row["state"] != "ended" or row["ending"] not in tuple(Ending) or row["recorded_at"] is None:
            yield Violation(2, f"{row['id']}: still {row['state']} at the end", at)
            continue
        if row["code"] not in tuple(Code) or CODES[Code(row["code"])].ending != row["ending"]:
            yield Violation(2, f"{row['id']}: ended {row['ending']} with the code {row['code']}", at)
        own = journalled.get((row["id"], row["journal_id"]))
        if own is None or own["ending"] is None or own["destroyed"]:
            continue
        if (own["ending"], own["code"]) != (row["ending"], row["code"]):
            text = f"{row['id']}: its agent ended it {own['ending']} ({own['code']}), the store says {row['ending']} ({row['code']})"
            yield Violation(2, text, at)
    epochs = {line["epoch"] for line in record.lines[What.JOURNALLED_EVENT]}
    endings: dict[tuple[str, str], dict[str, tuple[str, str]]] = defaultdict(dict)
    revised: Counter[str] = Counter()
    for event in record.lines[What.EVENT]:
        if event["type"] == "action.ended":
            endings[event["action"], event["epoch"]][event["message_id"]] = (event["ending"], event["code"])
        revised[event["action"]] += event["type"] == "action.revised"
    for (action, epoch), found in endings.items():
        # Two that say the same are as many, but from the gateway, which may have forgotten the first one with its store.
        if len(found if epoch in epochs else set(found.values())) > 1:
            text = f"{action}: {len(found)} endings out of one journal {epoch}: {sorted(found.values())}"
            yield Violation(2, text, _when(record, action))
    for action, count in revised.items():
        if count > 1:
            yield Violation(2, f"{action}: revised {count} times", _when(record, action))


def _check_shown_endings(record: Record) -> Iterator[Violation]:
    """What was shown as ended stays so; only what the gateway assumed may be revised, once, by the agent."""
    last: dict[str, Line] = {}
    for seen in record.lines[What.SEEN]:
        before = last.get(seen["action"])
        last[seen["action"]] = seen
        if before is None or before["state"] != "ended" or record.was_restored_between(before["at"], seen["at"]):
            continue
        if (before["ending"], before["code"]) == (seen["ending"], seen["code"]):
            continue
        if not (before["ending"] == Ending.UNKNOWN and before["decided_by"] == "gateway" and seen["decided_by"] == "agent"):
            text = f"{seen['action']}: was shown as {before['ending']} ({before['code']}), later as {seen['ending']} ({seen['code']})"
            yield Violation(2, text, seen["at"])


def _check_punctuality(record: Record) -> Iterator[Violation]:
    """Ended visibly by deadline and grace, as long as there is an engine and a store to write it down, and the machine itself goes on."""
    come_back = _COME_BACK + 2 * record.setup["start_seconds"]
    outages = sorted(
        [
            *((window.begins, window.over) for window in record.windows if window.parts & _KEEPERS),
            *((line["at"] - line["seconds"], line["at"]) for line in record.lines[What.STOOD_STILL]),
        ]
    )
    assumed = {
        event["action"]: event["occurred_at"]
        for event in record.lines[What.EVENT]
        if event["type"] == "action.ended" and event["decided_by"] == "gateway"
    }
    for row in record.rows.values():
        # Of one that was revised the first ending counts, which the gateway told of.
        visible_at = row["recorded_at"] if row["revised_at"] is None else assumed.get(row["id"], row["recorded_at"])
        if row["state"] != "ended" or visible_at is None:
            continue
        if record.is_newer_than_backup(row["accepted_at"]):
            continue
        grace = record.setup["skew"] + record.setup["bound"]
        allowed = row["deadline"] + grace * (2 if row["kind"] in _CHANGES else 1) + _SWEEP
        for begins, over in outages:
            if begins <= allowed and over + come_back >= row["accepted_at"]:
                allowed = max(allowed, over + come_back)
        if visible_at > allowed:
            text = f"{row['id']}: {row['ending']} ({row['code']}) was visible {visible_at - row['deadline']:.1f} s past its deadline"
            yield Violation(2, text, row["deadline"])


# 3, and the promise about deadlines


def _check_signals(record: Record) -> Iterator[Violation]:
    for phase, word in (("begins", "driver calls"), ("signal", "signals")):
        made: dict[str | None, list[Line]] = defaultdict(list)
        for call in _list_calls(record, phase):
            made[call["action"]].append(call)
        for action, calls in made.items():
            if action is None:
                yield Violation(3, f"{len(calls)} {word} for no action", calls[0]["at"])
            elif len(calls) > 1:
                yield Violation(3, f"{action}: {len(calls)} {word}", calls[1]["at"])
            row = record.rows.get(action or "")
            strange = {call["server"] for call in calls} - {row["server"]} if row is not None else set()
            if strange:
                yield Violation(3, f"{action}: {word} for {sorted(strange)}, and it is an action of another server", calls[0]["at"])


def _check_holdoff(record: Record) -> Iterator[Violation]:
    span = record.setup["holdoff"]
    resets: dict[str, list[float]] = defaultdict(list)
    for line in record.lines[What.RESET]:
        resets[line["server"]].append(line["at"])
    forced = {line["action"] for line in record.lines[What.ANSWER] if line["force"]} | {
        row["id"] for row in record.rows.values() if row["force"]
    }
    last: dict[str, Line] = {}
    for call in _list_calls(record, "signal"):
        before = last.get(call["server"])
        last[call["server"]] = call
        if before is None or call["action"] in forced:
            continue
        elapsed = call["at"] - before["at"]
        # Until the earlier call was back it was perhaps sent; from then on its agent counts, whatever its host's clock is set to.
        allowed = span - record.setup["tolerance"]
        is_over = any(before["at"] <= at <= call["at"] for at in resets[call["server"]])
        is_over |= record.was_journal_destroyed_between(call["host"], before["at"], call["at"])
        if elapsed < allowed and not is_over:
            yield Violation(3, f"{call['action']}: signalled {elapsed:.2f} s after {before['action']}, in its hold-off", call["at"])


def _check_deadlines(record: Record) -> Iterator[Violation]:
    for call in _list_calls(record, "begins"):
        row = record.rows.get(call["action"] or "")
        if row is None:
            continue
        stood_still = [
            min(line["at"], call["at"]) - max(line["at"] - line["seconds"], row["deadline"]) + _UNNOTED
            for line in record.lines[What.STOOD_STILL]
            if line["at"] - line["seconds"] <= call["at"] and line["at"] >= row["deadline"]
        ]
        late = call["at"] - row["deadline"] - sum(stood_still)
        if late > record.setup["tolerance"] and late > record.find_clock_error(call["host"], row["accepted_at"], call["at"]):
            yield Violation(3, f"{call['action']}: its call began {call['at'] - row['deadline']:.3f} s past its deadline", call["at"])


# 4


def _check_truth(record: Record) -> Iterator[Violation]:
    signalled = {call["action"] for call in _list_calls(record, "signal")}
    can_tell = bool(record.setup["counts_calls"])
    for row in record.rows.values():
        if row["kind"] == CRASH_DUMP and can_tell and row["ending"] == Ending.SUCCEEDED and row["id"] not in signalled:
            yield Violation(4, f"{row['id']}: succeeded, and no signal was sent", row["accepted_at"])
        if row["ending"] in (Ending.FAILED, Ending.EXPIRED) and row["id"] in signalled:
            text = f"{row['id']}: {row['ending']} ({row['code']} by {row['decided_by']}), and a signal was sent"
            yield Violation(4, text, row["accepted_at"])
    for action in sorted(signalled - record.rows.keys() - record.list_gone() - {None}):
        yield Violation(4, f"{action}: a signal was sent, and the store does not know it", _when(record, action))


# 7


def _check_privacy(record: Record) -> Iterator[Violation]:
    owners = {server: entry["project"] for server, entry in record.setup["servers"].items()}
    for shown in record.lines[What.SHOWN]:
        # A refusal may name what was asked for.
        named = shown["path"] if shown["status"] >= 300 else ""
        strange = [server for server in shown["servers"] if owners[server] != shown["project"] and server not in named]
        others = [project for project in shown["projects"] if project != shown["project"] and project not in named]
        if strange or others:
            text = f"{shown['project']} was shown {strange + others} by {shown['path']}"
            yield Violation(7, text, shown["at"])


# 0


def _check_rest(record: Record) -> Iterator[Violation]:
    for line in record.lines[What.UNSETTLED]:
        yield Violation(0, f"the faults were over, and it did not become quiet: {line['text']}", line["at"])
    for line in record.lines[What.COUNTER]:
        if line["name"].startswith("violations.") and line["value"] and not _is_provoked(record, line["name"]):
            yield Violation(0, f"the gateway itself counted {line['name']} = {line['value']}", line["at"])
    poison = {line["digest"] for line in record.lines[What.POISON]}
    for line in record.lines[What.DEAD_LETTER]:
        if line["digest"] not in poison:
            yield Violation(0, f"a dead letter out of {line['source']} that nobody poisoned: {line['reason']}", line["at"])
    for answer in record.lines[What.ANSWER]:
        if answer["status"] is not None and answer["status"] >= 500 and answer["status"] != 503:
            yield Violation(0, f"{answer['kind']} of {answer['server']} was answered {answer['status']}: {answer['error']}", answer["at"])
    for line in record.lines[What.REVIVED]:
        if not _NO_ROOM.search(line["text"]):
            yield Violation(0, f"{line['part']} ended by itself: {line['text']}", line["at"])
    for line in record.lines[What.FAULT]:
        if line["phase"] == "failed":
            yield Violation(0, f"the fault {line['name']} on {line['target']} could not be made or undone: {line['text']}", line["at"])


def _is_provoked(record: Record, counter: str) -> bool:
    """A message that lies about its sender is counted, and is what was to be counted if it was poison."""
    return counter == "violations.forged_sender" and bool(record.lines[What.POISON])


def _list_calls(record: Record, phase: str) -> list[Line]:
    return [line for line in record.lines[What.CALL] if line["phase"] == phase]


def _when(record: Record, action: str) -> float:
    row = record.rows.get(action)
    return record.end if row is None else float(row["accepted_at"])
