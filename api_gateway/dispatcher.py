"""Open actions become casts, again and again with the same id and deadline, until the agent reports or the deadline passes.

Of an action that was called off the agent is told just that, in the same way: until it reports that it ended or had begun.

What was tried is committed before it is tried: after a crash in between, the action counts as perhaps delivered, which only delays
an answer. The other way round it could be called expired while its NMI is on the way.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from api_gateway.cast_probing import CastProbing
from api_gateway.cast_slots import CastSlots
from api_gateway.rpc_versions import Speech
from api_gateway.store import Connection, Store, StoreError
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
    """One cast that was recorded and may be tried now: of the action, or that it is called off."""

    request: ActionRequest
    number: int
    cancels: bool


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
        self._probing = CastProbing(clock)

    def step(self) -> float | None:
        """Begin every cast that is due and has a free slot.

        :returns: seconds until the next one falls due; None when only a wake-up or a freed slot can bring one, or nothing waits.
        :raises StoreError: nothing was claimed; try again later.
        """
        free = self._slots.count_free()
        now, next_at = self._look()
        if free == 0 or next_at is None or next_at > now:
            return _seconds_between(now, next_at)
        pause = self._probing.find_pause()
        if pause is not None:
            if self._hosts_in_flight or pause:
                return pause or None
            free = 1
        casts, more = self._claim(free)
        try:
            now, next_at = self._look()
        finally:
            # As the last thing: the threads of the casts should not have to wait until this one lets go of the interpreter.
            for cast in casts:
                self._slots.start(partial(self._try_cast, cast))
        return 0.0 if more else _seconds_between(now, next_at)

    def _look(self) -> tuple[datetime, datetime | None]:
        """Now, and when the next cast falls due. Without the writer's lock: most wake-ups of an idle gateway need no write."""
        now = self._clock.now()
        with self._store.read() as c:
            return now, stored_casts.find_next_cast_at(c, now=now, received_timeout=self._received_timeout)

    def _claim(self, free: int) -> tuple[list[_Cast], bool]:
        """Lease what is due and record its cast, in one transaction: when it is committed, the casts may be tried.

        :returns: the casts, and whether so much ended without one that the rest was left for the next transaction.
        """
        casts: list[_Cast] = []
        postponed: list[ActionRow] = []
        ended = 0
        with self._lock:
            busy_hosts = frozenset(self._hosts_in_flight)
        with self._store.write() as c:
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
                ended_before = ended
                for action in claimed:
                    # A cast that outlived its lease is still in flight: the host must not get a second one beside it.
                    outcome = None if action.host in busy_hosts else self._record_cast(c, action)
                    if outcome is None:
                        postponed.append(action)
                    elif isinstance(outcome, _Ended):
                        ended += 1
                        stored_casts.release_lease(c, action.id, self._owner)  # its host's next action need not wait for it
                    else:
                        casts.append(outcome)
                if len(claimed) < limit and ended == ended_before:
                    break  # that was all
            # Released only now, so that the loop above does not meet them again and others behind them get their turn.
            for action in postponed:
                stored_casts.release_lease(c, action.id, self._owner)
        with self._lock:
            self._hosts_in_flight.update(cast.request.host for cast in casts)
        return casts, ended >= _MOST_ENDED

    def _record_cast(self, c: Connection, action: ActionRow) -> _Cast | _Ended | None:
        """Count a cast of ``action``, or end the action, or leave it for later (None)."""
        agent = stored_agents.find_agent(c, action.host)
        if action.is_called_off and not action.perhaps_delivered:
            return self._end(c, action, Code.CANCELLED, CODES[Code.CANCELLED].sentence)  # every cast of it came back meanwhile
        if agent is None:
            return None  # a forgotten host, or one that never spoke: there is no journal to bind the action to yet
        try:
            self._build_request(action, action.journal_id or agent.journal_id)
            capability = CAPABILITY_OF_KIND[ActionKind(action.kind)]
        except (ValueError, KeyError) as error:
            LOG.error("action %s server %s host %s cannot be cast: %s", action.id, action.server, action.host, error)
            return self._end(c, action, Code.INVALID_REQUEST, "The action cannot be told to an agent; nothing was sent.")
        if not agent.capabilities.get(capability, False) and not action.perhaps_delivered:
            return self._end(c, action, Code.NOT_SUPPORTED, _say_not_supported(agent, capability))
        obstacle = self._speech.find_obstacle(METHOD_OF_KIND[ActionKind(action.kind)], agent, c)
        if obstacle is not None and not action.perhaps_delivered:  # that agent was exchanged for an older one since the action was accepted
            return self._end(c, action, Code.NOT_SUPPORTED, f"{obstacle} Nothing was sent.")
        recorded = stored_casts.record_cast(
            c, action.id, owner=self._owner, at=self._clock.now(), journal_id=agent.journal_id, incarnation=agent.incarnation
        )
        if recorded is None:
            return None
        request = self._build_request(recorded, recorded.journal_id or agent.journal_id)
        return _Cast(request, recorded.cast_count, recorded.is_called_off)

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
        """Try one recorded cast, note whether it certainly came to nobody, and let go of the host."""
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
        try:
            with self._store.write() as c:
                if undelivered:
                    stored_casts.record_undelivered(c, request.id)
                if failed:
                    retry_at = self._clock.now() + min(_FIRST_RETRY * 2 ** min(cast.number - 1, 10), _LONGEST_RETRY)
                    stored_casts.record_failed_cast(c, request.id, self._owner, retry_at=retry_at)
                else:
                    stored_casts.release_lease(c, request.id, self._owner)
        except StoreError as error:
            # Safe: the lease runs out by itself, and an uncounted return leaves the action as perhaps delivered.
            LOG.warning("action %s: the end of its cast was not recorded: %s", request.id, error)
        finally:
            with self._lock:
                self._hosts_in_flight.discard(request.host)


def _seconds_between(now: datetime, next_at: datetime | None) -> float | None:
    """What is due and was not begun waits for its host's cast in flight, for a slot, or for the agent's first heartbeat: None."""
    return None if next_at is None or next_at <= now else (next_at - now).total_seconds()


def _say_not_supported(agent: AgentRow, capability: str) -> str:
    driver = agent.capabilities.get("driver", "unknown")
    return f"The driver {driver} of host {agent.host} has no capability {capability}; nothing was sent."
