"""Judges what real guests have counted, and what QEMU says of their watchdogs, against what the store has.

A guest counts NMIs without knowing for which action, and not while it boots: what was sent then is neither missed nor held against anybody.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from compute_agent.contract.errors import Ending
from tests.chaos.history import CRASH_DUMP, Line, What
from tests.chaos.record import FOR_EVER, Record, Violation, Window

_INJECTING, _RESETTING = "inject-nmi", "reset"
_LAST_WORDS, _LAST_DUMP = 2.0, 40.0
"""Seconds before its end in which a guest may take an NMI and not come to saying so; the other where a crash kernel has to say it."""
_FIRST_WORDS = 0.5
_COUNTING = 2.0
"""Seconds that a guest may take to count, on a busy machine."""
_ECHO = 3.0
"""Seconds after its watchdog injected an NMI in which a guest counts that one."""
_TOLD_AGAIN = 10.0
"""Seconds after a fault until the agent surely hears of watchdogs again."""
_UNSENT = 60.0
"""Seconds before a journal is destroyed in which what it has may not have been sent."""
_AROUND = 30.0
"""Seconds before and after in which a wrong clock may have put a wrong moment."""
_HEARD_ALL_THE_SAME = ("partition", "connections", "queue", "memory", "disk alarm", "poison")
FIRED = "server.watchdog.fired"


def check_guests(record: Record) -> Iterator[Violation]:
    yield from _check_counts(record)
    yield from _check_holdoff(record)
    yield from _check_firings(record)


def _check_counts(record: Record) -> Iterator[Violation]:
    gone = len(record.list_gone() - record.rows.keys())
    for guest in record.lines[What.GUEST]:
        server = guest["server"]
        rows = [row for row in record.rows.values() if row["server"] == server and row["kind"] == CRASH_DUMP]
        told = [row for row in rows if row["ending"] == Ending.SUCCEEDED]
        injected = sum(line["action"] == _INJECTING for line in _list_of(record, What.FIRED, server))
        unknown = [row for row in rows if row["ending"] == Ending.UNKNOWN]
        least = injected + len(told) - len(_list_unheard(record, guest, told, unknown if guest.get("panics") else None))
        most = injected + len(told) + len(unknown) + gone
        if not least <= guest["signals"] <= most:
            text = f"guest {server} counted {guest['signals']} signals: {least} were told, {most - least} more were perhaps sent"
            yield Violation(3 if guest["signals"] > most else 4, text, guest["at"])


def _list_unheard(record: Record, guest: Line, told: list[Line], deadly: list[Line] | None) -> list[Line]:
    """Those that a guest need not have counted.

    :param deadly: None of a guest that stands NMIs; one that panics takes none after the first of a life, which may be one of these too
    """
    server = guest["server"]
    deaf = list(_list_deaf_times(record, server, _LAST_DUMP if guest.get("dumps") else _LAST_WORDS))
    boots = [line["at"] for line in _list_of(record, What.BOOTED, server)]
    found = []
    for row in told:
        at = _get_moment(row)
        error = record.find_clock_error(row["host"], at - _AROUND, at + _AROUND)
        is_deaf = any(since - error <= at <= until + error for since, until in deaf)
        earlier = [_get_moment(other) for other in [*told, *deadly] if _get_moment(other) < at] if deadly is not None else []
        is_dead = bool(earlier) and not any(max(earlier) <= boot <= at for boot in boots)
        is_misdated = deadly is not None and error > record.setup["tolerance"]
        if is_deaf or is_dead or is_misdated:
            found.append(row)
    return found


def _get_moment(row: Line) -> float:
    return float(row.get("signalled_at") or row["ended_at"] or row["accepted_at"])


def _list_deaf_times(record: Record, server: str, last_words: float) -> Iterator[tuple[float, float]]:
    """From shortly before each end of a life until the next one begins."""
    struck = [line["at"] for line in _list_of(record, What.RESET, server)]
    struck += [line["at"] for line in _list_of(record, What.FIRED, server) if line["action"] == _RESETTING]
    ends = [(at - last_words, at) for at in struck]
    ends += [(line["at"], line["at"]) for line in _list_of(record, What.COUNTED, server) if line["panicked"]]
    boots = [line["at"] for line in _list_of(record, What.BOOTED, server)]
    for since, end in ends:
        yield since, min((at + _FIRST_WORDS for at in boots if at > end), default=FOR_EVER)


def _check_holdoff(record: Record) -> Iterator[Violation]:
    """By when they were counted; without those that watchdogs injected, which ask nobody."""
    counted: dict[str, list[float]] = defaultdict(list)
    for line in record.lines[What.COUNTED]:
        injected = [fired["at"] for fired in _list_of(record, What.FIRED, line["server"]) if fired["action"] == _INJECTING]
        if not any(at - 1 <= line["at"] <= at + _ECHO for at in injected):
            counted[line["server"]].append(line["at"])
    for server, moments in counted.items():
        resets = [line["at"] for what in (What.RESET, What.BOOTED) for line in _list_of(record, what, server)]
        resets += [line["at"] for line in _list_of(record, What.FIRED, server) if line["action"] == _RESETTING]
        boots = [line["at"] for line in _list_of(record, What.BOOTED, server)]
        for before, at in pairwise(moments):
            if any(boot - _FIRST_WORDS <= before <= boot + _COUNTING for boot in boots):
                continue  # it came at some time while the guest booted
            is_excused = any(before <= reset <= at for reset in resets) or any(
                (window.destroys_journal or _stops_guest(window)) and window.overlaps(before - _COUNTING, at) for window in record.windows
            )
            if at - before < record.setup["holdoff"] - _COUNTING and not is_excused:
                yield Violation(3, f"guest {server} counted an NMI {at - before:.1f} s after another one, in its hold-off", at)


def _check_firings(record: Record) -> Iterator[Violation]:
    """Each one that the agent could hear of is told, and none that was not."""
    told: dict[str, list[Line]] = defaultdict(list)
    for event in record.lines[What.EVENT]:
        if event["type"] == FIRED:
            told[event["server"]].append(event)
    for server in record.setup["servers"] if record.lines[What.GUEST] else ():
        firings = _list_of(record, What.FIRED, server)
        if len(told[server]) > len(firings):
            yield Violation(5, f"the watchdog of guest {server} fired {len(firings)} times, and {len(told[server])} are told", _end(record))
        for fired in firings:
            heard = any(abs(event["occurred_at"] - fired["at"]) <= _ECHO for event in told[server] if event["occurred_at"] is not None)
            if not heard and not any(_may_hide(window, fired["at"]) for window in record.windows):
                yield Violation(5, f"the watchdog of guest {server} fired ({fired['action']}), and it is not told", fired["at"])


def _may_hide(window: Window, at: float) -> bool:
    concerned = any(part == "libvirtd" or part.startswith(("agent:", "guest:")) for part in window.parts)
    if not concerned or window.name.startswith(_HEARD_ALL_THE_SAME):
        return False
    before = _UNSENT if window.destroys_journal else 0.5
    return window.begins - before <= at <= window.over + _TOLD_AGAIN


def _stops_guest(window: Window) -> bool:
    return window.target.startswith("guest:") and window.name == "SIGSTOP"


def _list_of(record: Record, what: What, server: str) -> list[Line]:
    return [line for line in record.lines[what] if line["server"] == server]


def _end(record: Record) -> float:
    return float(record.lines[What.GUEST][-1]["at"])
