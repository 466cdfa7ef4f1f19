"""What is missing in the record: sequences of an agent's journal that have not come while later ones have."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Integer, and_, bindparam, delete, exists, insert, or_, select, update

from api_gateway.store import outbox
from api_gateway.store.columns import Moment, columns_of, upsert_several
from api_gateway.store.tables import agents, epochs, gaps
from compute_agent.contract.models import OPEN_END


@dataclass(frozen=True)
class GapRow:
    """Sequences ``first`` to ``last`` (inclusive) of a host's epoch that never came. ``tries`` counts how often they were asked for."""

    id: int
    host: str
    epoch: str
    first: int
    last: int
    found_at: datetime
    ask_at: datetime
    tries: int

    @property
    def is_tail(self) -> bool:
        """Whether it is all that may have been committed behind ``first``, be there anything or not."""
        return self.last >= OPEN_END


_COLUMNS = columns_of(gaps, GapRow)


_HIGHEST = select(epochs.c.highest).where(epochs.c.host == bindparam("of_host"), epochs.c.epoch == bindparam("of_epoch"))
# Asked for each event that is recorded: built once.
_OF_EPOCH = and_(gaps.c.host == bindparam("of_host"), gaps.c.epoch == bindparam("of_epoch"))
_TOUCHED = (
    select(*_COLUMNS).where(_OF_EPOCH, gaps.c.first <= bindparam("to"), gaps.c.last >= bindparam("from")).order_by(gaps.c.first, gaps.c.id)
)
_CLOSE = delete(gaps).where(gaps.c.id == bindparam("closed"))
_NARROW = update(gaps).where(gaps.c.id == bindparam("narrowed"))
_HAS_GAPS = exists().where(gaps.c.host == epochs.c.host, gaps.c.epoch == epochs.c.epoch)
_KNOWN = select(epochs.c.host, epochs.c.epoch, epochs.c.highest, _HAS_GAPS).where(
    epochs.c.host.in_(bindparam("of_hosts", expanding=True)), epochs.c.epoch.in_(bindparam("of_epochs", expanding=True))
)
_FORGET_TAIL = delete(gaps).where(_OF_EPOCH, gaps.c.last >= OPEN_END)


def note_sequences(c: Connection, places: Iterable[tuple[str, str, int]], *, now: datetime) -> None:
    """Note newly recorded (host, epoch, sequence): later ones than expected open gaps, earlier ones fill them."""
    sequences: dict[tuple[str, str], list[int]] = defaultdict(list)
    for host, epoch, sequence in places:
        sequences[host, epoch].append(sequence)
    if not sequences:
        return
    names = {"of_hosts": sorted({host for host, _ in sequences}), "of_epochs": sorted({epoch for _, epoch in sequences})}
    known = {(host, epoch): (highest, has_gaps) for host, epoch, highest, has_gaps in c.execute(_KNOWN, names)}
    later: list[dict[str, str | int]] = []
    for (host, epoch), numbers in sequences.items():
        # Of a journal that nothing is recorded of the tail, which is all of it, may have been asked for.
        before, has_gaps = known.get((host, epoch), (0, True))
        highest = before
        for number in sorted(numbers):
            if number <= highest:
                if has_gaps:
                    _remove_range(c, host, epoch, number, number)
                continue
            if number > highest + 1:
                _open_gap(c, host, epoch, highest + 1, number - 1, now)
            highest = number
        if highest > before:
            if has_gaps:
                _forget_tail(c, host, epoch)  # from here on what is missing shows by itself
            later.append({"host": host, "epoch": epoch, "highest": highest})
    upsert_several(c, epochs, later)


def _open_gap(c: Connection, host: str, epoch: str, first: int, last: int, now: datetime) -> None:
    c.execute(insert(gaps).values(host=host, epoch=epoch, first=first, last=last, found_at=now, ask_at=now, tries=0))


def ask_for_tail(c: Connection, *, host: str, epoch: str, now: datetime) -> None:
    """Have the agent asked for whatever its journal holds behind the last event that was recorded of it."""
    _forget_tail(c, host, epoch)
    highest = c.execute(_HIGHEST, {"of_host": host, "of_epoch": epoch}).scalar_one_or_none() or 0
    if highest < OPEN_END:  # a host may claim any number
        _open_gap(c, host, epoch, highest + 1, OPEN_END, now)


def _forget_tail(c: Connection, host: str, epoch: str) -> None:
    c.execute(_FORGET_TAIL, {"of_host": host, "of_epoch": epoch})


def _list_touched(c: Connection, host: str, epoch: str, first: int, last: int) -> list[GapRow]:
    return [GapRow(*row) for row in c.execute(_TOUCHED, {"of_host": host, "of_epoch": epoch, "from": first, "to": last})]


def _remove_range(c: Connection, host: str, epoch: str, first: int, last: int) -> int:
    """Take ``first`` to ``last`` out of the gaps of an epoch; what stays of a gap keeps its history. How many were missing."""
    removed = 0
    for gap in _list_touched(c, host, epoch, first, last):
        removed += min(last, gap.last) - max(first, gap.first) + 1
        left, right = (gap.first, first - 1), (last + 1, gap.last)
        keep = [(low, high) for low, high in (left, right) if low <= high]
        if not keep:
            c.execute(_CLOSE, {"closed": gap.id})
            continue
        c.execute(_NARROW, {"narrowed": gap.id, "first": keep[0][0], "last": keep[0][1]})
        for low, high in keep[1:]:
            c.execute(
                insert(gaps).values(host=host, epoch=epoch, first=low, last=high, found_at=gap.found_at, ask_at=gap.ask_at, tries=gap.tries)
            )
    return removed


_UP = "up"
"""As in ``agents``, which needs this module."""
_CAN_BE_ASKED = or_(
    agents.c.host.is_(None),
    agents.c.state == _UP,
    agents.c.journal_id != gaps.c.epoch,
    gaps.c.tries >= bindparam("given_up_after", type_=Integer),
)
_DUE = (
    select(*_COLUMNS)
    .select_from(gaps.outerjoin(agents, agents.c.host == gaps.c.host))
    .where(gaps.c.ask_at <= bindparam("now", type_=Moment), _CAN_BE_ASKED)
    .order_by(gaps.c.ask_at, gaps.c.id)
    .limit(bindparam("at_most", type_=Integer))
)


def list_gaps(c: Connection, *, now: datetime, given_up_after: int = 2**31 - 1, limit: int = 100) -> list[GapRow]:
    """Gaps that are due to be asked for, or given up; a new one is at once.

    Not those of a host that is down: they wait for it, and however many they are, no other host's wait behind them.

    :param given_up_after: tries after which a gap is due even so; as it is when the agent has another journal
    """
    return [GapRow(*row) for row in c.execute(_DUE, {"now": now, "given_up_after": given_up_after, "at_most": limit})]


def list_gaps_of_host(c: Connection, host: str) -> list[GapRow]:
    """Due or not."""
    return [GapRow(*row) for row in c.execute(select(*_COLUMNS).where(gaps.c.host == host).order_by(gaps.c.id))]


def postpone_gap(c: Connection, gap_id: int, *, ask_at: datetime) -> None:
    """The gap is due again at ``ask_at``."""
    c.execute(update(gaps).where(gaps.c.id == gap_id).values(ask_at=ask_at))


def count_try(c: Connection, gap: GapRow) -> None:
    """Its host was asked for the gap, as it was read; if it was not counted, or narrowed, meanwhile."""
    same = and_(gaps.c.id == gap.id, gaps.c.epoch == gap.epoch, gaps.c.tries == gap.tries)
    c.execute(update(gaps).where(same).values(tries=gap.tries + 1))


def close_gap(c: Connection, *, host: str, epoch: str, first: int, last: int) -> int:
    """Forget what lies between ``first`` and ``last``: the agent said (``events.lost``) that it is gone.

    :returns: how many missing sequences that were.
    """
    return _remove_range(c, host, epoch, first, last)


def record_lost(c: Connection, gap: GapRow, *, reason: str, now: datetime) -> bool:
    """Give a gap up as far as it is still one: close it and append ``events.lost`` for each range to the outbox. Of a tail nobody knows
    whether there was anything: it is only closed.

    :returns: False when it was filled or closed meanwhile, or was a tail.
    """
    if gap.is_tail:
        c.execute(_CLOSE, {"closed": gap.id})
        return False
    remaining = _list_touched(c, gap.host, gap.epoch, gap.first, gap.last)
    for left in remaining:
        c.execute(_CLOSE, {"closed": left.id})
        outbox.append_event(
            c,
            "events.lost",
            server=None,
            host=left.host,
            occurred_at=now,
            body={"lost_epoch": left.epoch, "first": left.first, "last": left.last, "reason": reason},
        )
    return bool(remaining)
