"""The agent's RPC endpoint: check the signature, read, refuse, journal, queue. It knows no hypervisor word and never waits for one.

oslo.messaging has acknowledged a message before it comes here, so nothing is promised until the journal has it; a cast that is lost
on the way is cast again by the gateway. That makes duplicates ordinary: the same action is taken up once, and one that has ended has its
ending published again under the same message id.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import pydantic
from pydantic import TypeAdapter

from compute_agent.action_queue import ActionQueue
from compute_agent.cast_gate import CastGate
from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.errors import Code
from compute_agent.contract.models import (
    ActionId,
    ActionKind,
    ActionRequest,
    ActionResult,
    BlackBoxChunk,
    DecidedBy,
    EventRange,
    PingReply,
    ServerId,
)
from compute_agent.contract.signing import CastRefused
from compute_agent.contract.topics import Severity
from compute_agent.contract.transport import oslo_messaging
from compute_agent.contract.versions import RELEASE, RPC_API_VERSION
from compute_agent.journal import ActionState, Journal, JournalFull, JournalledAction, JournalTransaction
from compute_agent.kinds import TURN_OF_KIND, make_result

LOG = logging.getLogger(__name__)

_ACTION_ID: TypeAdapter[str] = TypeAdapter(ActionId)
_ACTION_KIND: TypeAdapter[ActionKind] = TypeAdapter(ActionKind)
_SERVER_ID: TypeAdapter[str] = TypeAdapter(ServerId)

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")
_Verb = Callable[Concatenate["Endpoint", Mapping[str, Any], _Arguments], _Answer]


def _gated(verb: _Verb[_Arguments, _Answer]) -> _Verb[_Arguments, _Answer]:
    """A verb that is carried out only when the gate lets it pass with the arguments that came, whatever they are.

    A refusal is no fault of this side: oslo.messaging answers it to whoever calls, and logs nothing.
    """

    @functools.wraps(verb)
    def check_and_do(self: "Endpoint", ctxt: Mapping[str, Any], /, *positional: _Arguments.args, **arguments: _Arguments.kwargs) -> _Answer:
        try:
            self._gate.check(verb.__name__, ctxt, arguments)
        except CastRefused as refused:
            raise oslo_messaging.ExpectedException from refused
        return verb(self, ctxt, *positional, **arguments)

    return check_and_do


class Endpoint:
    """One method per RPC verb; casts are called from the thread that reads them, questions from several at once.

    :param get_diagnostics: answers for a server, with its history if True, within a limit of its own
    :param get_black_box: reads a piece of a part of a box, given what a stranger may have written
    :param on_resend: told which range of events the gateway misses
    :param on_report_inventory: told that the gateway wants a full inventory
    :param on_ended: told each action whose ending was committed here (a refusal), as it was then
    :param is_host_ours: False when another agent may serve this host by now: casts are dropped then, and come again to whoever does
    :param gate: what comes in must pass it before anything else; None: everything does
    """

    target = oslo_messaging.Target(version=RPC_API_VERSION)

    def __init__(
        self,
        journal: Journal,
        queue: ActionQueue,
        clock: Clock,
        host: str,
        *,
        get_diagnostics: Callable[[str, bool], DiagnosticsReply],
        get_black_box: Callable[[str, str, int], BlackBoxChunk],
        on_resend: Callable[[EventRange], None],
        on_report_inventory: Callable[[], None],
        on_ended: Callable[[JournalledAction], None] = lambda action: None,
        is_host_ours: Callable[[], bool] = lambda: True,
        gate: CastGate | None = None,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._clock = clock
        self._host = host
        self._get_diagnostics = get_diagnostics
        self._get_black_box = get_black_box
        self._on_resend = on_resend
        self._on_report_inventory = on_report_inventory
        self._on_ended = on_ended
        self._is_host_ours = is_host_ours
        self._gate = gate or CastGate(None, journal, clock, host)

    @_gated
    def trigger_crash_dump(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one crash dump, or says in the outbox why not.

        :raises JournalUnusable: nothing was taken up; the gateway casts again.
        """
        self._take_in(ActionKind.TRIGGER_CRASH_DUMP, action)

    @_gated
    def collect_diagnostics(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one collection, whose report comes as the event ``server.diagnostics``.

        :raises JournalUnusable: as above.
        """
        self._take_in(ActionKind.COLLECT_DIAGNOSTICS, action)

    @_gated
    def take_host_dump(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one memory dump by the hypervisor.

        :raises JournalUnusable: as above.
        """
        self._take_in(ActionKind.TAKE_HOST_DUMP, action)

    @_gated
    def set_watchdog(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one change of a server's watchdog.

        :raises JournalUnusable: as above.
        """
        self._take_in(ActionKind.SET_WATCHDOG, action)

    @_gated
    def remove_watchdog(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one removal of a server's watchdog.

        :raises JournalUnusable: as above.
        """
        self._take_in(ActionKind.REMOVE_WATCHDOG, action)

    @_gated
    def resume(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one resumption of a paused server.

        :raises JournalUnusable: as above.
        """
        self._take_in(ActionKind.RESUME, action)

    @_gated
    def reset_watchdog_timer(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Takes up one feeding of a server's watchdog.

        :raises JournalUnusable: as above.
        """
        self._take_in(ActionKind.RESET_WATCHDOG_TIMER, action)

    @_gated
    def cancel_action(self, ctxt: Mapping[str, Any], action: Any) -> None:
        """Cast. Ends an action that has not begun, also one whose own cast has not come (yet); what has begun goes on to its ending.

        :raises JournalUnusable: as above.
        """
        if self._drops("cancel_action"):
            return
        try:
            self._read_and_cancel(action)
        except JournalFull as error:
            LOG.debug("an action is not cancelled now, the gateway casts again: %s", error)

    @_gated
    def resend_events(self, ctxt: Mapping[str, Any], events: Any) -> None:
        """Cast. Publish a range of the outbox again."""
        if self._drops("resend_events"):
            return
        try:
            missing = EventRange.from_wire(events)
        except pydantic.ValidationError as error:
            LOG.warning("host %s: unreadable resend_events refused: %s", self._host, _describe(error))
            return
        try:
            self._on_resend(missing)
        except JournalFull as error:
            LOG.debug("events are not published again now, the gateway asks again: %s", error)

    @_gated
    def report_inventory(self, ctxt: Mapping[str, Any]) -> None:
        """Cast. Send a heartbeat with the full inventory now."""
        if not self._drops("report_inventory"):
            self._on_report_inventory()

    @_gated
    def get_diagnostics(self, ctxt: Mapping[str, Any], server: Any, history: Any = False) -> dict[str, Any]:
        """Call. The diagnostics of a server, or why there are none; answered within the limit even when the hypervisor hangs."""
        server_id = _find_valid(_SERVER_ID, server)
        if self._drops("get_diagnostics"):
            reply = DiagnosticsReply.refuse(Code.BACKEND_UNAVAILABLE, f"This agent does not hold the lock of host {self._host} now.")
        elif server_id is None:
            reply = DiagnosticsReply.refuse(Code.INVALID_REQUEST, "The agent could not read the request: no server id.")
        else:
            reply = self._get_diagnostics(server_id, history is True)
        return reply.to_wire()

    @_gated
    def get_black_box(self, ctxt: Mapping[str, Any], black_box_id: Any, part: Any, offset: Any = 0) -> dict[str, Any]:
        """Call. A piece of one part of a black box, from byte ``offset`` on; it is a file of this host, whoever serves it now."""
        if isinstance(black_box_id, str) and isinstance(part, str) and type(offset) is int:
            return self._get_black_box(black_box_id, part, offset).to_wire()
        return BlackBoxChunk(total=None).to_wire()

    @_gated
    def ping(self, ctxt: Mapping[str, Any]) -> dict[str, Any]:
        """Call. Who answers here."""
        reply = PingReply(
            host=self._host,
            release=RELEASE,
            rpc_version=RPC_API_VERSION,
            journal_id=self._journal.journal_id,
            incarnation=self._journal.incarnation,
        )
        return reply.to_wire()

    def _drops(self, method: str) -> bool:
        """Whether what came in is not for this agent: to answer it would speak for a host (and a journal) that another one serves."""
        if self._is_host_ours():
            return False
        LOG.warning("host %s: %s came in without the lock of this host and is dropped; the gateway sends it again", self._host, method)
        return True

    def _take_in(self, kind: ActionKind, action: Any) -> None:
        if self._drops(kind):
            return
        try:
            self._read_and_take_up(kind, action)
        except JournalFull as error:  # which the journal says once, not for each cast
            LOG.debug("a %s is neither taken up nor refused, the gateway casts again: %s", kind, error)

    def _read_and_take_up(self, kind: ActionKind, action: Any) -> None:
        try:
            request = ActionRequest.from_wire(action)
        except pydantic.ValidationError as error:
            self._refuse_unreadable(action, kind, _describe(error))
            return
        if request.kind is not kind:
            self._refuse_unreadable(action, kind, f"kind: {request.kind} came as {kind}")
            return
        if kind is ActionKind.SET_WATCHDOG and request.watchdog is None:
            self._refuse_unreadable(action, kind, "watchdog: it does not say which one")
            return
        self._take_up(request)

    def _take_up(self, request: ActionRequest) -> None:
        with self._journal.transaction("action.received") as transaction:
            known = transaction.find_action(request.id)
            if self._is_settled(transaction, request, known):
                return
            if known is None:
                transaction.add_action(request, self._clock.now())
            refusal = self._find_refusal(request) if known is None else None
            ended = None if refusal is None else transaction.end_action(request.id, refusal, self._clock.now())
        if refusal is not None and ended is not None:
            self._log(request, f"refused {refusal.ending}: {refusal.code}: {refusal.reason}")
            self._on_ended(ended)
            return
        if known is None:
            self._log(request, f"received, global request {request.global_request_id}")
        # A duplicate as well: should the queue have lost it, the journal still lets it run only once.
        self._queue.add(request.server, request.id, TURN_OF_KIND[request.kind])

    def _read_and_cancel(self, action: Any) -> None:
        try:
            request = ActionRequest.from_wire(action)
        except pydantic.ValidationError as error:
            kind = _find_valid(_ACTION_KIND, action.get("kind") if isinstance(action, Mapping) else None)
            if kind is None:
                LOG.warning("host %s: unreadable cancel_action refused: %s", self._host, _describe(error))
            else:
                self._refuse_unreadable(action, kind, _describe(error))  # as its own cast would be
            return
        with self._journal.transaction("action.cancelled") as transaction:
            known = transaction.find_action(request.id)
            if self._is_settled(transaction, request, known):
                return
            if known is not None and known.was_begun:
                return  # by now or by an earlier incarnation: perhaps something was done, and its own ending says what
            refusal = None
            if known is None:
                # Journalled with its ending: its own cast, which may come later, finds it ended.
                transaction.add_action(request, self._clock.now())
                refusal = self._find_refusal(request)
            result = refusal or make_result(Code.CANCELLED, kind=request.kind)
            ended = transaction.end_action(request.id, result, self._clock.now())
        self._log(request, f"to be cancelled, ended {result.ending}: {result.code}: {result.reason}")
        if ended is not None:
            self._on_ended(ended)

    def _is_settled(self, transaction: JournalTransaction, request: ActionRequest, known: JournalledAction | None) -> bool:
        """Whether nothing is to be done any more for what comes under an id: it says something else than before, or it has ended."""
        if known is not None and known.request.fingerprint() != request.fingerprint():
            self._append_conflict(transaction, request, "another request came under the id of an action that is known here")
            return True
        if known is not None and known.state is ActionState.ENDED:
            transaction.resend_ending(request.id)
            return True
        # Refused as unreadable before: that ending holds, whatever comes under its id now.
        return known is None and transaction.resend_ending(request.id)

    def _find_refusal(self, request: ActionRequest) -> ActionResult | None:
        if request.host != self._host:
            return make_result(Code.INVALID_REQUEST, f"The request names host {request.host} and came to {self._host}; nothing was sent.")
        if request.journal_id != self._journal.journal_id:
            return make_result(Code.JOURNAL_LOST, kind=request.kind)
        return None

    def _refuse_unreadable(self, action: Any, kind: ActionKind, problem: str) -> None:
        body = action if isinstance(action, Mapping) else {}
        action_id = _find_valid(_ACTION_ID, body.get("id"))
        if action_id is None:
            LOG.warning("host %s: unreadable action without a readable id refused: %s", self._host, problem)
            return
        self._end_unread(action_id, kind, _find_valid(_SERVER_ID, body.get("server")), problem)

    def _end_unread(self, action_id: str, kind: ActionKind, server: str | None, problem: str) -> None:
        """End an action that cannot be journalled as a row: only its ending is kept, in the outbox."""
        now = self._clock.now()
        with self._journal.transaction("action.ended") as transaction:
            if transaction.find_action(action_id) is not None:
                body = {"action_id": action_id, "kind": kind, "reason": f"an unreadable request came under a known id: {problem}"}
                transaction.append_event("action.id_conflict", server=server, occurred_at=now, body=body)
            elif not transaction.resend_ending(action_id):
                result = make_result(Code.INVALID_REQUEST, f"The agent could not read the request ({problem}); nothing was sent.")
                body = {"action_id": action_id, "kind": kind, **result.model_dump(), "decided_by": DecidedBy.AGENT}
                transaction.append_event("action.ended", server=server, occurred_at=now, body=body, severity=Severity.WARN)
        LOG.warning("action %s server %s host %s: unreadable request refused: %s", action_id, server, self._host, problem)

    def _append_conflict(self, transaction: JournalTransaction, request: ActionRequest, reason: str) -> None:
        body = {"action_id": request.id, "kind": request.kind, "reason": reason}
        transaction.append_event("action.id_conflict", server=request.server, occurred_at=self._clock.now(), body=body)
        LOG.error("action %s server %s host %s: refused: %s", request.id, request.server, self._host, reason)

    def _log(self, request: ActionRequest, what: str) -> None:
        LOG.info("action %s server %s host %s: %s", request.id, request.server, self._host, what)


def _find_valid(adapter: TypeAdapter[_Answer], value: object) -> _Answer | None:
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError:
        return None


def _describe(error: pydantic.ValidationError) -> str:
    """Which fields are wrong and how, without echoing what was sent."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors(include_url=False))
