"""Open actions become casts, again and again with the same id and deadline, until the agent reports or the deadline passes.

Of an action that was called off the agent is told just that, in the same way: until it reports that it ended or had begun.

What was tried is committed before it is tried: after a crash in between, the action counts as perhaps delivered, which only delays
an answer. The other way round it could be called expired while its NMI is on the way.
"""

import logging
import threading
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from api_gateway.cast_probing import CastProbing
from api_gateway.cast_slots import CastSlots
from api_gateway.rpc_versions import Speech
from api_gateway.store import Connection, Store, StoreBusy, StoreError
from api_gateway.store import agents as stored_agents
from api_gateway.store import casts as stored_casts
from api_gateway.store import endings as stored_endings
from api_gateway.store.actions import ActionRow
from api_gateway.store.agents import AgentRow
from compute_agent.contract.clock import Clock
from compute_agent.contract.errors import CODES, Code, Ending
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.contract.rpcapi import METHOD_OF_KIND, ActionCaster, NotDelivered, Unroutable

LOG = logging.getLogger(__name__)

CAPABILITY_OF_KIND: dict[ActionKind, str] = {
    ActionKind.TRIGGER_CRASH_DUMP: "inject_nmi",
    ActionKind.COLLECT_DIAGNOSTICS: "diagnostics",
    ActionKind.TAKE_HOST_DUMP: "host_dump",
    ActionKind.SET_WATCHDOG: "watchdog",
    ActionKind.REMOVE_WATCHDOG: "watchdog",
    ActionKind.RESUME: "resume",
    ActionKind.RESET_WATCHDOG_TIMER: "watchdog_timer",
}
"""What the agent's driver must be capable of for an action of each kind."""
_FIRST_RETRY, _LONGEST_RETRY = timedelta(seconds=0.25), timedelta(seconds=1)
"""After a cast that failed: a broker that was restarted is back within a moment. The longest is what its return may cost an action."""
_MOST_ENDED = 100
"""Actions that end without a cast in one transaction: others want to write too."""


@dataclass(frozen=True)
class _Cast:
    """One cast that may be tried once ``counted`` is committed: of the action, or that it is called off."""

    request: ActionRequest
    counted: ActionRow

    @property
    def number(self) -> int:
        return self.counted.cast_count

    @property
    def cancels(self) -> bool:
        return self.counted.is_called_off


@dataclass(frozen=True)
class _Tried:
    """A cast that was tried.

    :param undelivered: it certainly came to nobody
    :param retry_at: when it is to be tried again, because nobody knows; None: it came, or came back
    """

    cast: _Cast
    undelivered: bool
    retry_at: datetime | None


class _Ended:
    """An action that ended instead of being cast."""


class Dispatcher:
    """At most one cast in flight per host, and a bounded number of them altogether.

    :param owner: who holds the leases: another one for each process
    :param slots: where the casts run; a cast may block for as long as a broker's alarm lasts. Whoever runs the steps is to be woken
        when a slot is free again: its host may be cast to once more.
    :param lease: seconds after which another dispatcher may take over what this one claimed
    :param received_timeout: seconds without ``action.received`` after which an action is cast again
    :param speech: what agents can be told
    """

    def __init__(
        self,
        store: Store,
        caster: ActionCaster,
        clock: Clock,
        *,
        owner: str,
        slots: CastSlots,
        lease: float = 30.0,
        received_timeout: float = 5.0,
        speech: Speech | None = None,
    ) -> None:
        self._store = store
        self._caster = caster
        self._clock = clock
        self._owner = owner
        self._slots = slots
        self._lease = timedelta(seconds=lease)
        self._received_timeout = timedelta(seconds=received_timeout)
        self._speech = speech or Speech()
        self._lock = threading.Lock()
        self._hosts_in_flight: set[str] = set()
        self._tried: list[_Tried] = []
        self._probing = CastProbing(clock)

    def step(self, *, woken: bool = False) -> float | None:
        """Begin every cast that is due and has a free slot, and note what became of those that were tried.

        :param woken: somebody said that something is to be cast: where no cast is on its way, it is claimed without a look first, which
            takes as long again
        :returns: seconds until the next one falls due; None when only a wake-up or a freed slot can bring one, or nothing waits.
        :raises StoreError: nothing was claimed; try again later.
        """
        tried = self._take_tried()
        free = self._slots.count_free()
        # With what was tried, whether anything is due shows in the transaction that is needed anyway.
        claims_at_once = bool(tried) or (woken and free > 0 and not self._hosts_in_flight)
        if not claims_at_once:
            now, next_at = self._look()
            if free == 0 or next_at is None or next_at > now:
                return _seconds_between(now, next_at)
        allowed, pause = self._probe_with(free, tried)
        if allowed == 0 and not tried:
            return pause
        casts, more = self._take_turn(allowed, tried)
        # As the last thing: the threads of the casts should not have to wait until this one lets go of the interpreter.
        for cast in casts:
            self._slots.start(partial(self._try_cast, cast))
        if more:
            return 0.0
        if pause is not None:
            return pause
        if len(self._tried) < len(self._hosts_in_flight):
            return None  # each that is in flight brings the next step when it is over
        self.finish()
        return _seconds_between(*self._look())

    def finish(self) -> None:
        """Note what became of the casts that are over by now. For the end, when no step follows.

        :raises StoreError: nothing was noted; try again later. Otherwise their leases run out, and they count as perhaps delivered.
        """
        tried = self._take_tried()
        if tried:
            self._take_turn(0, tried)

    def _take_tried(self) -> list[_Tried]:
        with self._lock:
            tried, self._tried = self._tried, []
        return tried

    def _put_back(self, tried: Sequence[_Tried]) -> None:
        with self._lock:
            self._tried[:0] = tried

    def _probe_with(self, free: int, tried: Sequence[_Tried]) -> tuple[int, float | None]:
        """How many casts may be begun, and for how many seconds no more: while the broker does not answer, it is one at a time."""
        pause = self._probing.find_pause()
        if pause is None:
            return free, None
        if pause or len(self._hosts_in_flight) > len(tried):
            return 0, pause or None
        return min(free, 1), None

    def _look(self) -> tuple[datetime, datetime | None]:
        """Now, and when the next cast falls due. Without the writer's lock: an idle gateway looks often, and needs no write."""
        now = self._clock.now()
        with self._store.read() as c:
            return now, stored_casts.find_next_cast_at(c, now=now, received_timeout=self._received_timeout)

    def _take_turn(self, free: int, tried: Sequence[_Tried]) -> tuple[list[_Cast], bool]:
        """Note what became of earlier casts, lease what is due and record its cast, in one transaction: when it is committed, the casts may
        be tried.

        :returns: the casts, and whether so much ended without one that the rest was left for the next transaction.
        """
        hosts = {each.cast.request.host for each in tried}
        try:
            casts, more = self._claim(free, tried, self._hosts_in_flight - hosts)
        except StoreBusy:
            self._put_back(tried)
            raise
        except BaseException:
            # Perhaps all of it was committed: what is counted once more as undelivered could make of a delivered action one that was not.
            self._put_back([replace(each, undelivered=False) for each in tried])
            raise
        self._hosts_in_flight = (self._hosts_in_flight - hosts) | {cast.request.host for cast in casts}
        return casts, more

    def _claim(self, free: int, tried: Sequence[_Tried], busy_hosts: Set[str]) -> tuple[list[_Cast], bool]:
        casts: list[_Cast] = []
        postponed: list[ActionRow] = []
        ended = 0
        with self._store.write() as c:
            if tried:
                stored_casts.lock_casts(c)
                self._note_tried(c, tried)
            while len(casts) < free and ended < _MOST_ENDED:
                limit = free - len(casts)
                claimed = stored_casts.claim_castable(
                    c,
                    owner=self._owner,
                    now=self._clock.now(),
                    lease=self._lease,
                    limit=limit,
                    received_timeout=self._received_timeout,
                )
                agents = stored_agents.find_agents(c, [action.host for action in claimed]) if claimed else {}
                freed: list[str] = []
                for action in claimed:
                    # A cast that outlived its lease is still in flight: the host must not get a second one beside it.
                    outcome = None if action.host in busy_hosts else self._count_cast(c, action, agents.get(action.host))
                    if outcome is None:
                        postponed.append(action)
                    elif isinstance(outcome, _Ended):
                        freed.append(action.id)  # its host's next action need not wait for it
                    else:
                        casts.append(outcome)
                stored_casts.release_leases(c, freed, self._owner)
                ended += len(freed)
                if len(claimed) < limit and not freed:
                    break  # that was all
            stored_casts.record_casts(c, [cast.counted for cast in casts])
            # Released only now, so that the loop above does not meet them again and others behind them get their turn.
            stored_casts.release_leases(c, [action.id for action in postponed], self._owner)
        return casts, ended >= _MOST_ENDED

    def _note_tried(self, c: Connection, tried: Sequence[_Tried]) -> None:
        """What is known of where they came to; the host of each that need not be tried again is free."""
        for each in tried:
            request = each.cast.request
            if each.undelivered:
                stored_casts.record_undelivered(c, request.id)
            if each.retry_at is not None:
                stored_casts.record_failed_cast(c, request.id, self._owner, retry_at=each.retry_at)
        stored_casts.release_leases(c, [each.cast.request.id for each in tried if each.retry_at is None], self._owner)

    def _count_cast(self, c: Connection, action: ActionRow, agent: AgentRow | None) -> _Cast | _Ended | None:
        """Count a cast of ``action``, or end the action, or leave it for later (None)."""
        if action.is_called_off and not action.perhaps_delivered:
            return self._end(c, action, Code.CANCELLED, CODES[Code.CANCELLED].sentence)  # every cast of it came back meanwhile
        if agent is None:
            return None  # a forgotten host, or one that never spoke: there is no journal to bind the action to yet
        try:
            request = self._build_request(action, action.journal_id or agent.journal_id)
            capability = CAPABILITY_OF_KIND[ActionKind(action.kind)]
        except (ValueError, KeyError) as error:
            LOG.error("action %s server %s host %s cannot be cast: %s", action.id, action.server, action.host, error)
            return self._end(c, action, Code.INVALID_REQUEST, "The action cannot be told to an agent; nothing was sent.")
        if not agent.capabilities.get(capability, False) and not action.perhaps_delivered:
            return self._end(c, action, Code.NOT_SUPPORTED, _say_not_supported(agent, capability))
        obstacle = self._speech.find_obstacle(METHOD_OF_KIND[ActionKind(action.kind)], agent, c)
        if obstacle is not None and not action.perhaps_delivered:  # that agent was exchanged for an older one since the action was accepted
            return self._end(c, action, Code.NOT_SUPPORTED, f"{obstacle} Nothing was sent.")
        counted = stored_casts.count_cast(
            action, owner=self._owner, at=self._clock.now(), journal_id=agent.journal_id, incarnation=agent.incarnation
        )
        return None if counted is None else _Cast(request, counted)

    def _build_request(self, action: ActionRow, journal_id: str) -> ActionRequest:
        return ActionRequest(
            id=action.id,
            kind=ActionKind(action.kind),
            server=action.server,
            server_generation=action.server_generation,
            host=action.host,
            project=action.project,
            user=action.user,
            sent_at=self._clock.now(),
            deadline=action.deadline,
            journal_id=journal_id,
            force=action.force,
            global_request_id=action.global_request_id,
            **action.arguments,
        )

    def _end(self, c: Connection, action: ActionRow, code: Code, reason: str) -> _Ended | None:
        """End an action of which nothing was sent; refused by the store (None, and left to the sweep) if that is not certain."""
        ending = CODES[code].ending
        assert ending is Ending.FAILED
        if not stored_endings.end_by_gateway(c, action.id, ending=ending, code=code, reason=reason, at=self._clock.now()):
            return None
        LOG.info("action %s server %s host %s ended %s: %s", action.id, action.server, action.host, ending, code)
        return _Ended()

    def _try_cast(self, cast: _Cast) -> None:
        """Try one recorded cast, and leave what became of it to the next step, which writes that with what it claims."""
        request = cast.request
        undelivered = failed = False
        try:
            (self._caster.cancel_action if cast.cancels else self._caster.cast_action)(request)
            self._probing.note_answer()
            what = "cancellation cast" if cast.cancels else "cast"
            LOG.info("action %s server %s host %s %s (%d)", request.id, request.server, request.host, what, cast.number)
        except NotDelivered as error:
            undelivered = True
            if isinstance(error, Unroutable):
                self._probing.note_answer()
            LOG.warning("action %s server %s host %s not delivered (%d): %s", request.id, request.server, request.host, cast.number, error)
        except StoreError as error:  # what its agent takes could not be read: nothing was sent, and the broker was not asked
            undelivered = failed = True
            LOG.warning("action %s server %s host %s not cast (%d): %s", request.id, request.server, request.host, cast.number, error)
        except Exception as error:  # noqa: BLE001 -- any other exception of a cast means "perhaps delivered" (measured)
            failed = True
            self._probing.note_failure(error)
            LOG.warning(
                "action %s server %s host %s perhaps delivered (%d): %r", request.id, request.server, request.host, cast.number, error
            )
        retry_at = None
        if failed:
            retry_at = self._clock.now() + min(_FIRST_RETRY * 2 ** min(cast.number - 1, 10), _LONGEST_RETRY)
        with self._lock:
            self._tried.append(_Tried(cast, undelivered, retry_at))


def _seconds_between(now: datetime, next_at: datetime | None) -> float | None:
    """What is due and was not begun waits for its host's cast in flight, for a slot, or for the agent's first heartbeat: None."""
    return None if next_at is None or next_at <= now else (next_at - now).total_seconds()


def _say_not_supported(agent: AgentRow, capability: str) -> str:
    driver = agent.capabilities.get("driver", "unknown")
    return f"The driver {driver} of host {agent.host} has no capability {capability}; nothing was sent."
