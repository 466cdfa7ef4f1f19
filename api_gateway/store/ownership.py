"""Who owns a server that several hosts may know: a pure decision over what each of them says.

A server is *claimed* by each host that has it in its inventory; a host that cannot read its inventory keeps its last claims, an arriving
(migrating in) server is no claim yet. The rules, in this order:

* An owner that still runs it keeps it. Another host that runs it as well, both of them up: a conflict.
* An owner that is down loses it to a host that runs it, and to nobody else.
* An owner whose copy is shut off has a leftover as soon as another host runs it: the running one owns it.
* An owner that let go (migrated, undefined) leaves it to whoever has it, the running one first.
* An owner from whose host it vanished without a word leaves it to a host that runs it; shut-off copies elsewhere are leftovers
  until the grace is over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from compute_agent.contract.models import PowerState


@dataclass(frozen=True)
class Claim:
    """A host's word about one server.

    ``up``: its agent is. ``current``: it is up and its inventory was read and is complete; otherwise this is what it said last.
    """

    host: str
    power_state: str
    state_at: datetime
    up: bool = True
    current: bool = True

    @property
    def runs(self) -> bool:
        return self.power_state == PowerState.RUNNING


@dataclass(frozen=True)
class Ownership:
    """``host`` None: nobody has it. ``conflict_host``: the other host that runs it."""

    host: str | None
    conflict_host: str | None = None


def decide_owner(owner: str | None, claims: Sequence[Claim], *, released: bool = False, conflict_host: str | None = None) -> Ownership:
    """Decide over all claims of one server.

    :param owner: who owns it so far; None for a server that nobody owned or whose grace is over
    :param released: the owner has let go of it and said so
    :param conflict_host: the other party of a conflict that has begun already
    """
    holder = next((claim for claim in claims if claim.host == owner), None)
    runners = _rank(claim for claim in claims if claim.runs and claim.current and claim is not holder)
    if holder is None:
        candidates = _rank(claims) if owner is None or released else runners
        if not candidates:
            return Ownership(None)
        heir = candidates[0]
        rivals = [runner for runner in runners if runner is not heir]
        return Ownership(heir.host, rivals[0].host if heir.runs and heir.current and rivals else None)
    if holder.runs and holder.up:
        known = next((claim for claim in claims if claim.host == conflict_host and claim.runs and claim.up), None)
        if known is not None and known is not holder:
            return Ownership(holder.host, known.host)  # it lasts until one of them lets go, not until one of them is unreadable
        return Ownership(holder.host, runners[0].host if runners and holder.current else None)
    leftover = holder.power_state == PowerState.SHUTDOWN and holder.current
    if runners and (leftover or not holder.up):
        return Ownership(runners[0].host, runners[1].host if len(runners) > 1 else None)
    return Ownership(holder.host)


def _rank(claims: Iterable[Claim]) -> list[Claim]:
    """Best first: a current word before an old one, running before any other state, then the latest word, then by name."""
    by_name = sorted(claims, key=lambda claim: claim.host)
    return sorted(by_name, key=lambda claim: (claim.current, claim.runs, claim.state_at), reverse=True)
