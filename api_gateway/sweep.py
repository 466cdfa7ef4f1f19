"""What time alone brings about: deadlines, agents that fell silent, servers that stay away, events that never came.

Every second. Each duty is a step of its own with its own transaction, so that one which fails keeps no other from its work.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, partial

from api_gateway.cast_slots import CastSlots
from api_gateway.store import Connection, Store, StoreError, counters
from api_gateway.store import actions as stored_actions
from api_gateway.store import agents as stored_agents
from api_gateway.store import diagnostics as stored_diagnostics
from api_gateway.store import endings as stored_endings
from api_gateway.store import events as stored_events
from api_gateway.store import gaps as stored_gaps
from api_gateway.store import hearing as stored_hearing
from api_gateway.store import outbox as stored_outbox
from api_gateway.store import servers as stored_servers
from api_gateway.store import statistics as stored_statistics
from api_gateway.store.actions import ActionRow
from api_gateway.store.agents import AgentRow
from api_gateway.store.gaps import GapRow
from api_gateway.watchdog_checks import WATCHDOG_CHANGES
from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import CODES, Code
from compute_agent.contract.models import ActionKind, EventRange
from compute_agent.contract.notifications import HEARTBEAT_TTL_MS
from compute_agent.contract.rpcapi import ActionCaster

LOG = logging.getLogger(__name__)

_BATCH = 1000
_UNKNOWN_DRIVER_BOUND = timedelta(seconds=60)
"""Grace for an agent whose host was forgotten while it had an action."""
_NOT_REPORTED_SENTENCES: dict[str, str] = {
    ActionKind.COLLECT_DIAGNOSTICS: "The agent has not reported by the deadline and its grace; the diagnostics were perhaps collected.",
    ActionKind.TAKE_HOST_DUMP: "The agent has not reported by the deadline and its grace; the memory was perhaps written to its host.",
    ActionKind.SET_WATCHDOG: "The agent has not reported by the deadline and its grace; the watchdog was perhaps set.",
    ActionKind.REMOVE_WATCHDOG: "The agent has not reported by the deadline and its grace; the watchdog was perhaps removed.",
    ActionKind.RESUME: "The agent has not reported by the deadline and its grace; the server perhaps runs again.",
    ActionKind.RESET_WATCHDOG_TIMER: "The agent has not reported by the deadline and its grace; the watchdog was perhaps fed.",
}
"""Where the code's own sentence, which speaks of an NMI, would be wrong."""
_GAP_PATIENCE = timedelta(seconds=2)
"""A gap this young is perhaps only a message that was redelivered behind others."""
_LONGEST_GAP_PAUSE = timedelta(seconds=300)
_PRUNE_INTERVAL = timedelta(minutes=10)
_RECORDING_PATIENCE = timedelta(seconds=60)
"""Within that the recorder has what the broker has, unless the store was away."""
_RECORDING_LOOKS = timedelta(seconds=30)
_GROWTH_LOOKS = timedelta(seconds=5)


class Sweep:
    """The gateway's duties over time.

    :param slots: where ``resend_events`` is cast from; what finds no free slot is asked for at the next step
    :param max_clock_skew: seconds by which clocks may differ; part of the grace behind a deadline
    :param host_dump_bound: seconds that a begun memory dump may take beyond its deadline
    :param missing_grace: seconds after which a server that nobody has is deleted
    :param gap_tries: how often missing events are asked for, by casts that the broker took, before they are given up
    :param gap_retry: seconds between the first two of those tries; doubled from try to try
    :param outbox_keep: seconds that the gateway's own events are kept after they were published; half of ``events_keep`` at most
    :param events_keep: days that recorded events are kept; 0: for ever
    """

    def __init__(
        self,
        store: Store,
        caster: ActionCaster,
        clock: Clock,
        *,
        slots: CastSlots,
        max_clock_skew: float = 2.0,
        host_dump_bound: float = 3600.0,
        missing_grace: float = 600.0,
        gap_tries: int = 10,
        gap_retry: float = 10.0,
        outbox_keep: float = 86_400.0,
        events_keep: int = 90,
    ) -> None:
        self._store = store
        self._caster = caster
        self._clock = clock
        self._slots = slots
        self._max_clock_skew = timedelta(seconds=max_clock_skew)
        self._begun_dumps_take = timedelta(seconds=max_clock_skew + host_dump_bound)
        self._missing_grace = timedelta(seconds=missing_grace)
        self._gap_tries = gap_tries
        self._gap_retry = timedelta(seconds=gap_retry)
        self._events_keep = timedelta(days=events_keep)
        # Of an own event that is kept longer than its record it would look as if it had never been recorded.
        longest = self._events_keep / 2 or timedelta.max
        self._outbox_keep = min(timedelta(seconds=outbox_keep), longest)
        self._prune_at = clock.now() + _PRUNE_INTERVAL
        self._recorded_until = self._own_looked_until = 0
        self._look_for_own_at = self._look_for_growth_at = clock.now()

    @property
    def duties(self) -> tuple[Callable[[], None], ...]:
        """All of them, in the order of their urgency."""
        return (
            self.end_actions_past_deadline,
            self.mark_silent_agents,
            self.ask_for_missing_events,
            self.publish_lost_again,
            self.expire_missing_servers,
            self.take_statistics,
            self.prune,
        )

    def step(self) -> None:
        """Every duty once.

        :raises StoreError: of the first duty that failed; those behind it were not tried.
        """
        for duty in self.duties:
            duty()

    def end_actions_past_deadline(self) -> None:
        """``expired`` (or what it was called off as) what certainly was never delivered, ``unknown`` what nobody reported by the deadline
        and its grace."""
        with self._store.read() as c:
            if not stored_endings.list_past_deadline(c, now=self._clock.now(), begun_dumps_take=self._begun_dumps_take, limit=1):
                return
        with self._store.write() as c:
            now = self._clock.now()
            for action in stored_endings.list_past_deadline(c, now=now, begun_dumps_take=self._begun_dumps_take, limit=_BATCH):
                if action.state == stored_actions.ActionState.ACCEPTED and not action.perhaps_delivered:
                    self._end(c, action, Code.CANCELLED if action.is_called_off else Code.DEADLINE_PASSED, now)
                elif now >= action.deadline + self._find_grace(c, action):
                    self._end(c, action, Code.NOT_REPORTED, now)

    def _find_grace(self, c: Connection, action: ActionRow) -> timedelta:
        agent = stored_agents.find_agent(c, action.host)
        bound = _UNKNOWN_DRIVER_BOUND if agent is None else timedelta(seconds=agent.driver_bound)
        grace = self._max_clock_skew + bound
        if action.state != stored_actions.ActionState.STARTED:
            return grace
        if action.kind == ActionKind.TAKE_HOST_DUMP:
            return max(grace, self._begun_dumps_take)  # it writes all of a server's memory, which takes what it takes
        if action.kind in WATCHDOG_CHANGES:
            return 2 * grace  # when the deadline passes meanwhile, the agent sets the former device again
        return grace

    def _end(self, c: Connection, action: ActionRow, code: Code, now: datetime) -> None:
        meaning = CODES[code]
        reason = _NOT_REPORTED_SENTENCES.get(action.kind, meaning.sentence) if code is Code.NOT_REPORTED else meaning.sentence
        if stored_endings.end_by_gateway(c, action.id, ending=meaning.ending, code=code, reason=reason, at=now):
            LOG.info("action %s server %s host %s ended %s: %s", action.id, action.server, action.host, meaning.ending, code)

    def mark_silent_agents(self) -> None:
        """Down are those that said nothing for three of their intervals in which others were heard, be it only ourselves: while nothing
        comes through nobody falls silent."""
        now = self._clock.now()
        with self._store.read() as c:
            hearing = stored_hearing.find_hearing(c)
            overdue = [] if hearing is None else stored_agents.list_overdue(c, min(hearing.until, now))
        for agent in overdue:
            assert hearing is not None
            if hearing.until < hearing.since + timedelta(seconds=stored_agents.OVERDUE_INTERVALS * agent.interval):
                continue
            reason = f"no heartbeat for {(now - agent.received_at).total_seconds():.0f} s"
            with self._store.write() as c:
                if stored_agents.mark_down(c, agent.host, now=now, reason=reason):
                    LOG.warning("host %s: agent is down: %s", agent.host, reason)

    def expire_missing_servers(self) -> None:
        """Delete servers that nobody has had for the grace; their history stays."""
        now = self._clock.now()
        with self._store.read() as c:
            if not stored_servers.list_overdue(c, now=now, missing_grace=self._missing_grace, limit=1):
                return
        with self._store.write() as c:
            for server in stored_servers.expire_missing(c, now=now, missing_grace=self._missing_grace):
                LOG.info("server %s deleted: no host has it any more", server)

    def ask_for_missing_events(self) -> None:
        """Have agents publish again what never came; name as lost what nobody can publish any more."""
        now = self._clock.now()
        with self._store.read() as c:
            if not stored_gaps.list_gaps(c, now=now, given_up_after=self._gap_tries, limit=1):
                return
        free = self._slots.count_free()
        asked: list[GapRow] = []
        with self._store.write() as c:
            counters.lock_counters(c)  # what a recorder brings meanwhile would be named as lost, and each wait for the other's gaps
            find_agent = cache(partial(stored_agents.find_agent, c))  # a host may have hundreds of gaps
            for gap in stored_gaps.list_gaps(c, now=now, given_up_after=self._gap_tries, limit=_BATCH):
                agent = find_agent(gap.host)
                lost = self._say_lost(gap, agent)
                if lost is not None:
                    if stored_gaps.record_lost(c, gap, reason=lost, now=now):
                        LOG.error("host %s epoch %s: events %d to %d are lost: %s", gap.host, gap.epoch, gap.first, gap.last, lost)
                elif agent is None:
                    stored_gaps.postpone_gap(c, gap.id, ask_at=now + self._pause_after(gap.tries))
                    stored_gaps.count_try(c, gap)
                elif agent.state == stored_agents.UP and now >= gap.found_at + _GAP_PATIENCE and len(asked) < free:
                    stored_gaps.postpone_gap(c, gap.id, ask_at=now + self._pause_after(gap.tries))
                    asked.append(gap)
        for gap in asked:
            self._slots.start(partial(self._ask, gap))

    def _say_lost(self, gap: GapRow, agent: AgentRow | None) -> str | None:
        """Why the events of a gap will not come any more; None while they may."""
        if agent is not None and agent.journal_id != gap.epoch:
            # A heartbeat may be as old as its TTL: only one that is certainly younger than the gap says that the journal is gone.
            if agent.received_at > gap.found_at + timedelta(milliseconds=HEARTBEAT_TTL_MS):
                return f"the agent has another journal now ({agent.journal_id})"
            return None
        if gap.tries >= self._gap_tries:
            return f"asked for {gap.tries} times and not published again"
        return None

    def _ask(self, gap: GapRow) -> None:
        if gap.is_tail:
            LOG.info("host %s epoch %s: asking for whatever was told from event %d on", gap.host, gap.epoch, gap.first)
        else:
            LOG.warning("host %s epoch %s: events %d to %d are missing, asking for them", gap.host, gap.epoch, gap.first, gap.last)
        try:
            self._caster.resend_events(gap.host, EventRange(epoch=gap.epoch, first=gap.first, last=gap.last))
        except Exception as error:  # noqa: BLE001 -- a cast may raise anything; it is no try, and the next one follows
            LOG.warning("host %s could not be asked for missing events: %r", gap.host, error)
            return
        try:
            with self._store.write() as c:
                stored_gaps.count_try(c, gap)
        except StoreError as error:
            LOG.warning("that host %s was asked for missing events is not counted: %s", gap.host, error)

    def publish_lost_again(self) -> None:
        """Have the gateway's own events published once more that the broker took and the recorder never got; every half minute, and one
        page at each step while there are more."""
        now = self._clock.now()
        if now < self._look_for_own_at:
            return
        with self._store.read() as c:
            found = stored_outbox.find_unrecorded(c, after=self._own_looked_until, now=now, patience=_RECORDING_PATIENCE, limit=_BATCH)
        if found.lost:
            with self._store.write() as c:
                stored_outbox.reopen(c, found.lost)
            LOG.warning("%d events of the gateway, from %d on, came to no record and are published again", len(found.lost), found.lost[0])
        if self._recorded_until == self._own_looked_until:
            self._recorded_until = found.until
        if found.next_after is not None:
            self._own_looked_until = found.next_after
        else:
            self._own_looked_until = self._recorded_until
            self._look_for_own_at = now + _RECORDING_LOOKS

    def take_statistics(self) -> None:
        """Let PostgreSQL know of tables that grow faster than it looks; a look at each every five seconds."""
        now = self._clock.now()
        if not self._store.needs_statistics or now < self._look_for_growth_at:
            return
        self._look_for_growth_at = now + _GROWTH_LOOKS
        with self._store.read() as c:
            outgrown = stored_statistics.list_outgrown(c)
        for table in outgrown:
            with self._store.write() as c:
                stored_statistics.take_statistics(c, table)

    def prune(self) -> None:
        """Forget what was published or recorded long ago; every ten minutes, and at each step while there is more of it than one
        transaction should delete. Dead letters are for people and stay until people delete them."""
        now = self._clock.now()
        if now < self._prune_at:
            return
        with self._store.write() as c:
            counts = [stored_outbox.prune(c, sent_before=now - self._outbox_keep, limit=_BATCH)]
        if self._events_keep:
            with self._store.write() as c:
                counts.append(stored_events.prune(c, recorded_before=now - self._events_keep, limit=_BATCH))
                counts.append(stored_diagnostics.prune(c, recorded_before=now - self._events_keep, limit=_BATCH))
        if max(counts) < _BATCH:
            self._prune_at = now + _PRUNE_INTERVAL

    def _pause_after(self, tries: int) -> timedelta:
        return min(self._gap_retry * (1 << min(tries, 10)), max(self._gap_retry, _LONGEST_GAP_PAUSE))
