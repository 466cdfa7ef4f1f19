"""What an event of a server came from: a crash dump's signal, its watchdog, or both where nobody can tell them apart."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from compute_agent.drivers.models import DriverEventKind
from compute_agent.journal import ActionState, JournalTransaction, Signal
from compute_agent.journal_firings import Firing
from compute_agent.journal_rows import SignalCause
from compute_agent.observations import EXPLAINED_BY_SIGNAL

_AT_ONCE = frozenset({DriverEventKind.PANICKED, DriverEventKind.CRASH_KERNEL_STARTED})
_NMI_WINDOW = timedelta(seconds=2)
"""A panic comes milliseconds after its NMI; no clock and no busy host make more than this of it."""


@dataclass(frozen=True)
class Cause:
    """``action_id``: the crash dump that may have led to it; ``fired_event``: the event of the watchdog's firing that may have."""

    action_id: str | None = None
    fired_event: str | None = None

    @property
    def is_watchdog_alone(self) -> bool:
        return self.fired_event is not None and self.action_id is None


def find_cause(
    transaction: JournalTransaction, server: str, kind: DriverEventKind, at: datetime, *, explanation: Firing | None, limit: float
) -> Cause:
    """What may have led to an event at ``at``.

    :param explanation: a firing that it comes from beyond doubt: then no older crash dump led to it
    :param limit: seconds after which a signal explains nothing any more
    """
    if explanation is not None:
        return Cause(fired_event=explanation.message_id)
    if kind not in EXPLAINED_BY_SIGNAL:
        return Cause()
    dump = _find_signal(transaction, server, SignalCause.ACTION, at, limit)
    nmi = _find_signal(transaction, server, SignalCause.WATCHDOG, at, limit)
    if dump is not None and nmi is not None and kind in _AT_ONCE:
        if _was_just_sent(nmi, at) and not _was_just_sent(dump, at) and not _is_being_sent(transaction, dump):
            dump = None
        elif dump.at > nmi.at and _was_just_sent(dump, at) and not _was_just_sent(nmi, at):
            nmi = None
    return Cause(None if dump is None else dump.action_id, None if nmi is None else nmi.action_id)


def _find_signal(transaction: JournalTransaction, server: str, cause: SignalCause, at: datetime, limit: float) -> Signal | None:
    signal = transaction.find_signal(server, cause)
    if signal is None or signal.cleared or at - signal.at > timedelta(seconds=limit):
        return None
    action = transaction.find_action(signal.action_id)
    # The panic comes milliseconds after the NMI, often before the driver's call has returned: not signal.at is the lower bound.
    begun = signal.at if action is None or action.started_at is None else action.started_at
    return signal if at >= begun else None


def _was_just_sent(signal: Signal, at: datetime) -> bool:
    return abs(at - signal.at) <= _NMI_WINDOW


def _is_being_sent(transaction: JournalTransaction, signal: Signal) -> bool:
    """The call has not returned: it may go out at any moment."""
    action = transaction.find_action(signal.action_id)
    return action is not None and action.state is ActionState.STARTED
