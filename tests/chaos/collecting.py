"""What is left at the end, read as files: the store, the journals, the hypervisors' own records, the logs."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, NullPool, RowMapping, create_engine, text

from tests.chaos.history import History, Line, What
from tests.chaos.system import SECOND, ChaosSystem
from tests.chaos.tracebacks import list_unexpected

_MICROSECONDS = 1_000_000
_ROW_TIMES = ("accepted_at", "deadline", "received_at", "started_at", "signalled_at", "ended_at", "recorded_at", "revised_at")
_ROW_WORDS = (
    "id",
    "kind",
    "server",
    "host",
    "project",
    "state",
    "force",
    "ending",
    "code",
    "decided_by",
    "journal_id",
    "ending_epoch",
    "cast_count",
    "observation",
)
_PAYLOAD_WORDS = ("ending", "code", "decided_by", "lost_epoch", "first", "last", "observed_late")
DELETED = "deleted-"
"""How directories begin in which lies what an operator destroyed: only the judge looks there."""


def connect(path: Path) -> sqlite3.Connection:
    """To look, while its owner goes on writing."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
    connection.row_factory = sqlite3.Row
    return connection


def find_unsettled(system: ChaosSystem) -> str:
    """What is still going on, in words; empty when all is quiet. Raises sqlite3.Error or SQLAlchemyError while something cannot be read."""
    with _open_store(system) as store:
        is_open = _read(store, "SELECT count(*) AS count FROM actions WHERE state != 'ended'")[0]["count"]
        unsent = _read(store, "SELECT count(*) AS count FROM outbox WHERE sent_at IS NULL")[0]["count"]
        gaps = _read(store, "SELECT count(*) AS count FROM gaps")[0]["count"]
        recorded = {row["message_id"] for row in _read(store, "SELECT message_id FROM events")}
        own = {row["message_id"] for row in _read(store, "SELECT message_id FROM outbox")}
        lost = _list_lost(store)
    problems = [
        f"{is_open} actions are open" if is_open else "",
        f"{unsent} events of the gateway are not published" if unsent else "",
        f"{gaps} gaps are open" if gaps else "",
        f"{len(own - recorded)} events of the gateway are not recorded" if own - recorded else "",
    ]
    for path in _list_journals(system):
        if path.parent.name.startswith(DELETED):
            continue
        with closing(connect(path)) as journal:
            epoch = _read_facts(journal)["journal_id"]
            rows = list(journal.execute("SELECT sequence, message_id, sent_at FROM outbox"))
            unrecorded = [row for row in rows if row["message_id"] not in recorded and not _is_lost(lost, epoch, row["sequence"])]
            missing = [row for row in unrecorded if row["sent_at"] is not None or not _was_second(path)]
            open_here = _count(journal, "SELECT count(*) FROM actions WHERE state != 'ended'")
        problems += [f"{len(missing)} events of {path.parent.name} are not recorded" if missing else ""]
        problems += [f"{open_here} actions of {path.parent.name} are open in its journal" if open_here else ""]
    return "; ".join(problem for problem in problems if problem)


def collect(system: ChaosSystem, history: History) -> None:
    """Write down everything; the processes have ended."""
    system.hosting.collect(history)
    for path in _list_journals(system):
        _collect_journal(path, history)
    _collect_store(system, history)
    for line in list_tracebacks(sorted(system.directory.glob("*.log"))):
        history.write(What(line.pop("what")), **line)


def list_tracebacks(logs: Iterable[Path]) -> Iterator[Line]:
    """What the processes logged that they should not have, as lines of a history."""
    now = time.time()
    for log in logs:
        for found in list_unexpected(log):
            yield {"at": now, "what": What.TRACEBACK, "part": log.stem, "text": found.text, "logged_at": found.logged_at}


def _collect_journal(path: Path, history: History) -> None:
    with closing(connect(path)) as journal:
        facts = _read_facts(journal)
        host, epoch, destroyed = facts["host"], facts["journal_id"], path.parent.name.startswith(DELETED)
        for row in journal.execute("SELECT sequence, message_id, event_type, sent_at, occurred_at FROM outbox ORDER BY sequence"):
            history.write(
                What.JOURNALLED_EVENT,
                host=host,
                epoch=epoch,
                sequence=row["sequence"],
                message_id=row["message_id"],
                type=row["event_type"],
                occurred_at=_to_seconds(row["occurred_at"]),
                sent=row["sent_at"] is not None,
                destroyed=destroyed,
                second=_was_second(path),
            )
        for row in journal.execute("SELECT id, state, ending, code FROM actions ORDER BY position"):
            history.write(What.JOURNALLED_ACTION, host=host, epoch=epoch, destroyed=destroyed, **dict(row))


def _collect_store(system: ChaosSystem, history: History) -> None:
    with _open_store(system) as store:
        for row in _read(store, "SELECT * FROM actions"):
            times = {name: _to_seconds(row[name]) for name in _ROW_TIMES}
            history.write(What.ROW, **{name: row[name] for name in _ROW_WORDS}, **times)
        for row in _read(store, "SELECT * FROM events ORDER BY position"):
            payload = json.loads(row["payload"])
            history.write(
                What.EVENT,
                position=row["position"],
                message_id=row["message_id"],
                type=row["event_type"],
                server=row["server"],
                host=row["host"],
                epoch=row["epoch"],
                sequence=row["sequence"],
                action=row["action_id"],
                project=row["project"],
                occurred_at=_to_seconds(row["occurred_at"]),
                recorded_at=_to_seconds(row["recorded_at"]),
                **{name: payload[name] for name in _PAYLOAD_WORDS if name in payload},
            )
        for row in _read(store, "SELECT message_id, event_type, sent_at FROM outbox"):
            history.write(What.OUTBOX, message_id=row["message_id"], type=row["event_type"], sent=row["sent_at"] is not None)
        for row in _read(store, "SELECT source, reason, body FROM dead_letters"):
            history.write(What.DEAD_LETTER, digest=digest(row["body"]), source=row["source"], reason=row["reason"])
        for row in _read(store, "SELECT name, value FROM counters"):
            history.write(What.COUNTER, name=row["name"], value=row["value"])


@contextmanager
def _open_store(system: ChaosSystem) -> Iterator[Connection]:
    """To look only, as plain as can be: the gateway's own code is what is judged."""
    engine = create_engine(system.stack.database_url, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def _read(store: Connection, statement: str) -> Sequence[RowMapping]:
    return store.execute(text(statement)).mappings().all()


def _to_seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / _MICROSECONDS


def digest(body: bytes) -> str:
    """By which a body is known again."""
    return hashlib.sha256(bytes(body)).hexdigest()


def _list_journals(system: ChaosSystem) -> list[Path]:
    """All but those of second agents that were stopped before they had begun one."""
    return [path for path in system.list_journals() if not _was_second(path) or _has_begun(path)]


def _has_begun(path: Path) -> bool:
    with closing(connect(path)) as journal:
        return _count(journal, "SELECT count(*) FROM sqlite_master WHERE name = 'facts'") > 0


def _was_second(journal: Path) -> bool:
    """Whether it is that of an agent under the name of another one: what it saw before it learnt so it keeps to itself."""
    return journal.parent.name.startswith(SECOND)


def _list_lost(store: Connection) -> list[tuple[str, int, int]]:
    payloads = [json.loads(row["payload"]) for row in _read(store, "SELECT payload FROM events WHERE event_type = 'events.lost'")]
    return [(payload["lost_epoch"], payload["first"], payload["last"]) for payload in payloads]


def _is_lost(lost: list[tuple[str, int, int]], epoch: str, sequence: int) -> bool:
    return any(at == epoch and first <= sequence <= last for at, first, last in lost)


def _read_facts(journal: sqlite3.Connection) -> dict[str, Any]:
    return {row["key"]: row["value"] for row in journal.execute("SELECT key, value FROM facts")}


def _count(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])
