"""Where requests for actions are taken on: seen, permitted, checked, committed.

Crash dumps that are asked for at the same time share a transaction: their servers, agents and earlier actions are read at once, their rows
are inserted at once, and one commit holds for all of them. Each is still answered for itself, and 202 to none before that commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from api_gateway.acceptance import REFUSALS, Asked, Terms, accept_action, accept_actions
from api_gateway.faults import Fault
from api_gateway.identity import Identity
from api_gateway.policy import permit
from api_gateway.server_checks import Subject
from api_gateway.store import Connection, Store, StoreRejected
from api_gateway.store.actions import ActionRow
from api_gateway.store.prospects import Prospect, hold_free_servers
from api_gateway.together import Together
from api_gateway.visibility import get_visible_server_to_act_on, is_server_id, no_such_server, refuse_unless_visible
from compute_agent.contract.clock import Clock
from compute_agent.contract.models import STANDS_STILL, ActionKind

_MOST_TOGETHER = 64
_FORCE = "crashcart:actions:force"


@dataclass(frozen=True)
class Wish:
    """What ``identity`` wants done to a server, which ``rule`` of the policy must allow."""

    identity: Identity
    server: str
    rule: str
    asked: Asked

    @property
    def is_judged_at_once(self) -> bool:
        """Whether no rule for it asks somebody else, for whom all that come with it would wait."""
        rules = self.identity.rules
        return rules.is_lasting(self.rule) and (not self.asked.force or rules.is_lasting(_FORCE))

    def permit(self, server: Subject) -> None:
        """:raises Fault: 404 when it cannot be seen, 403 when this is not allowed."""
        refuse_unless_visible(self.identity, server)
        permit(self.identity, self.rule, server.project)
        if self.asked.force:
            permit(self.identity, _FORCE)


@dataclass(frozen=True)
class Received:
    """The action, whether this request made it (False: an earlier one with the same idempotency key did), and its server's project."""

    action: ActionRow
    new: bool
    owner: str


class Reception:
    """Of one process. Any thread may come, outside of every transaction."""

    def __init__(self, store: Store, clock: Clock, terms: Terms) -> None:
        self._store = store
        self._clock = clock
        self._terms = terms
        self._crash_dumps: Together[Wish, Received | Exception | None] = Together(
            partial(accept_together, store, clock, terms), most=_MOST_TOGETHER
        )

    def accept(self, wish: Wish) -> Received:
        """The action, committed.

        :raises Fault: the caller does not see the server, or may not ask for this.
        :raises Exception: as :func:`accept_action` does.
        :raises StoreError: nothing was written.
        """
        if not is_server_id(wish.server):
            raise no_such_server(wish.server)
        if wish.asked.kind == ActionKind.TRIGGER_CRASH_DUMP and wish.is_judged_at_once:
            outcome = self._crash_dumps.ask(wish)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                return outcome
        return self._accept_alone(wish)

    def _accept_alone(self, wish: Wish) -> Received:
        with self._store.write() as c:
            server = get_visible_server_to_act_on(c, wish.identity, wish.server)
            wish.permit(server)
            accepted = accept_action(c, server, wish.asked, now=self._clock.now(), terms=self._terms)
        return Received(accepted.action, accepted.new, server.project)


def accept_together(store: Store, clock: Clock, terms: Terms, wishes: Sequence[Wish]) -> list[Received | Exception | None]:
    """Crash dumps in one transaction, each as if it had come alone.

    :returns: for each the action, or why not, or None: it must be tried alone. Of two for one server the second must, which sees then what
        the first one wrote.
    :raises StoreError: nothing was written.
    """
    firsts = {wish.server: wish for wish in reversed(wishes)}
    try:
        with store.write(begins_later=True) as c:
            outcomes = _accept_firsts(c, clock, terms, firsts)
    except StoreRejected:
        return [None] * len(wishes)  # one of them is at fault; the others must not suffer for it
    return [outcomes.get(wish.server) if firsts[wish.server] is wish else None for wish in wishes]


def _accept_firsts(c: Connection, clock: Clock, terms: Terms, firsts: Mapping[str, Wish]) -> dict[str, Received | Exception]:
    """What becomes of each; nothing of those that must be tried alone: their server is in somebody's hands, is none, or stands still, so
    that the time counts otherwise for it."""
    outcomes: dict[str, Received | Exception] = {}
    wanted: list[tuple[Prospect, Asked]] = []
    now = clock.now()
    for prospect in hold_free_servers(c, list(firsts), now=now, holdoff=terms.holdoff):
        if prospect.power_state in STANDS_STILL:
            continue
        try:
            firsts[prospect.id].permit(prospect)
        except Fault as fault:
            outcomes[prospect.id] = fault
        else:
            wanted.append((prospect, firsts[prospect.id].asked))
    accepted = accept_actions(c, wanted, now=now, terms=terms)
    for (prospect, _), outcome in zip(wanted, accepted, strict=True):
        outcomes[prospect.id] = outcome if isinstance(outcome, REFUSALS) else Received(outcome.action, outcome.new, prospect.project)
    return outcomes
