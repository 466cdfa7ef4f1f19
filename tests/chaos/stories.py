"""Hand-made histories, for the tests of the validator: a run in which everything went well, to be spoilt."""

import copy
from typing import Any

from tests.chaos.history import Line, What

SERVER, OTHER_SERVER = "server-red", "server-blue"
HOST = "host-1"
EPOCH = "journal-1"
ACTION = "req-1"


def make_line(what: What, at: float, **fields: Any) -> Line:
    return {"at": at, "what": what, **fields}


class Story:
    """One crash dump of one server, asked for at 100, signalled at 101, ended at 102, and what everybody has of it."""

    def __init__(self) -> None:
        self.lines: list[Line] = [
            make_line(
                What.SETUP,
                90.0,
                seed=1,
                servers={SERVER: {"host": HOST, "project": "red"}, OTHER_SERVER: {"host": HOST, "project": "blue"}},
                holdoff=10.0,
                skew=2.0,
                bound=3.0,
                tolerance=0.1,
                counts_calls=True,
                start_seconds=1.0,
            )
        ]
        self._sequence = 0
        self.add_action(ACTION, 100.0)

    def add_action(self, action: str, at: float, *, server: str = SERVER, signalled: bool = True, **row: Any) -> None:
        """One that went well, unless ``row`` says otherwise."""
        self.lines += [
            make_line(
                What.ANSWER,
                at,
                asked_at=at - 0.1,
                project="red",
                server=server,
                host=HOST,
                kind="trigger_crash_dump",
                status=202,
                action=action,
                key=None,
                force=False,
                error="",
            ),
            make_line(
                What.ROW,
                200.0,
                **{
                    "id": action,
                    "kind": "trigger_crash_dump",
                    "server": server,
                    "host": HOST,
                    "state": "ended",
                    "force": False,
                    "ending": "succeeded",
                    "code": "signal_delivered",
                    "decided_by": "agent",
                    "journal_id": EPOCH,
                    "accepted_at": at,
                    "deadline": at + 10,
                    "ended_at": at + 2,
                    "recorded_at": at + 2.1,
                    "revised_at": None,
                }
                | row,
            ),
        ]
        self.lines.append(
            make_line(
                What.JOURNALLED_ACTION,
                200.0,
                id=action,
                host=HOST,
                epoch=EPOCH,
                state="ended",
                ending=row.get("ending", "succeeded"),
                code=row.get("code", "signal_delivered"),
                destroyed=False,
            )
        )
        if signalled:
            self.add_call(action, at + 1, server=server)
        self.add_event("action.ended", at + 2, action=action, server=server, ending="succeeded", code="signal_delivered")

    def add_call(
        self, action: str | None, at: float, *, server: str = SERVER, phases: tuple[str, ...] = ("begins", "signal", "returns")
    ) -> None:
        for number, phase in enumerate(phases):
            self.lines.append(
                make_line(What.CALL, at + number / 1000, phase=phase, call=f"call-{at}", action=action, server=server, host=HOST, pid=1)
            )

    def add_event(self, event_type: str, at: float, *, heard: bool = True, stored: bool = True, **fields: Any) -> Line:
        """Committed to the journal, recorded, and heard by the second consumer."""
        self._sequence += 1
        common = {"message_id": f"message-{self._sequence}", "type": event_type, "host": HOST, "epoch": EPOCH, "sequence": self._sequence}
        self.lines.append(make_line(What.JOURNALLED_EVENT, 200.0, **common, occurred_at=at, sent=True, destroyed=False))
        stored_line = make_line(
            What.EVENT,
            200.0,
            **{**common, "server": SERVER, "action": None, "occurred_at": at, "recorded_at": at + 0.1, "decided_by": "agent", **fields},
        )
        if stored:
            self.lines.append(stored_line)
        if heard:
            self.lines.append(make_line(What.HEARD, at, **common, action=fields.get("action")))
        return stored_line

    def add(self, what: What, at: float, **fields: Any) -> None:
        self.lines.append(make_line(what, at, **fields))

    def add_fault(self, name: str, begins: float, over: float, *, parts: tuple[str, ...] = (), number: int = 1, **fields: Any) -> None:
        common = {"id": number, "name": name, "target": HOST, "hosts": [HOST], "parts": list(parts), "offset": None, **fields}
        self.add(What.FAULT, begins, phase="begins", **common)
        self.add(What.FAULT, over, phase="over", text="", **common)

    def change(self, what: What, _index: int = 0, **fields: Any) -> None:
        """The first line of a kind, or that of an index, says something else."""
        [line for line in self.lines if line["what"] == what][_index].update(fields)

    def drop(self, what: What, **fields: Any) -> None:
        """Every line of a kind that has these fields never was."""
        self.lines = [line for line in self.lines if not (line["what"] == what and fields.items() <= line.items())]

    def copy(self) -> "Story":
        return copy.deepcopy(self)
