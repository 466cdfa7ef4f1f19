"""What keeps this release from running over a store, a fleet and a broker, and what somebody should do about it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from api_gateway.fleet_report import judge_pin, list_down, list_untold, name_with_release
from api_gateway.pins import RPC_PREFIX, Pin, parse_pin
from api_gateway.store.agent_versions import AgentVersions
from api_gateway.store.phases import Migration, Phase
from api_gateway.version_numbers import find_version
from compute_agent.contract import versions

LONG_DOWN = timedelta(days=1)
"""An agent that has been down for longer is not just being upgraded."""


class Result(IntEnum):
    """A finding's weight, and the exit status of a check that found nothing worse."""

    SUCCESS = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Finding:
    """One sentence on ``check``; one that is no success says what to do."""

    check: str
    result: Result
    text: str


def check_tables(pending: Sequence[Migration]) -> list[Finding]:
    """:param pending: what this release's tables have and the database's do not"""
    missing = [migration for migration in pending if migration.phase is not Phase.CONTRACT]
    if missing:
        names = ", ".join(migration.revision for migration in missing)
        text = f"the tables are not this release's; run crashcart-manage db upgrade --expand, which makes {names}"
        return [Finding("database", Result.FAILURE, text)]
    if pending:
        text = (
            f"when neither an engine nor an API of the release before runs any more: crashcart-manage db upgrade --contract, which makes "
            f"{'; '.join(str(migration) for migration in pending)}"
        )
        return [Finding("database", Result.WARNING, text)]
    return [Finding("database", Result.SUCCESS, "the tables are this release's, or newer ones that it can use")]


def check_agents(agents: Sequence[AgentVersions], *, now: datetime) -> list[Finding]:
    """Whether each can be told something, and is of this release or a neighbour of it."""
    findings = []
    untold = list_untold(agents)
    if untold:
        findings.append(_fail(f"this release can tell nothing to the agents of: {name_with_release(untold)}; {_UPGRADE_OR_FORGET}"))
    unreached = {agent.host for agent in untold}
    told = [agent for agent in agents if agent.host not in unreached]
    far = [agent for agent in told if _find_distance(agent) not in (-1, 0, 1)]
    if far:
        text = f"agents more than one minor release away from {versions.RELEASE}: {name_with_release(far)}; {_UPGRADE_OR_FORGET}"
        findings.append(_fail(f"{text}, one minor release after the other"))
    left = [agent for agent in list_down(told) if _find_distance(agent) == -1 and agent.down_since and now - agent.down_since > LONG_DOWN]
    if left:
        text = f"of the release before, and down for more than a day: {name_with_release(left)}; {_UPGRADE_OR_FORGET}"
        findings.append(Finding("agents", Result.WARNING, text))
    if findings:
        return findings
    behind, ahead = ([agent for agent in told if _find_distance(agent) == distance] for distance in (-1, 1))
    notes = [f"{len(some)} of the release {word}" for some, word in ((behind, "before"), (ahead, "after")) if some]
    known = f"{len(agents)} known, none more than one minor release away" if agents else "none was heard yet"
    return [Finding("agents", Result.SUCCESS, known + _join(notes))]


def check_pin(level: str, agents: Sequence[AgentVersions]) -> list[Finding]:
    """:param level: ``[upgrade_levels] compute_agent``"""
    try:
        pin = parse_pin(level)
    except ValueError as error:
        return [Finding("pin", Result.FAILURE, f"{error}: neither API nor engine will start")]
    standing = judge_pin(pin, agents)
    findings = [Finding("pin", Result.WARNING, _say_bare(pin))] if pin.is_bare else []
    if standing.is_needless:
        text = f"{standing.text}; take the pin out, and restart API and engine"
        return [*findings, Finding("pin", Result.WARNING, text)]
    return findings or [Finding("pin", Result.SUCCESS, standing.text)]


def get_worst(findings: Iterable[Finding]) -> Result:
    return max((finding.result for finding in findings), default=Result.SUCCESS)


_UPGRADE_OR_FORGET = "upgrade them, or give up those that will not come back (crashcart-manage host forget HOST)"


def _fail(text: str) -> Finding:
    return Finding("agents", Result.FAILURE, text)


def _find_distance(agent: AgentVersions) -> int | None:
    """Minor releases from this gateway's to the agent's; None: of another major one, or it cannot be read."""
    own, said = find_version(versions.RELEASE), find_version(agent.release)
    return said[1] - own[1] if own is not None and said is not None and own[0] == said[0] else None


def _say_bare(pin: Pin) -> str:
    return (
        f"[upgrade_levels] compute_agent = {pin.configured} is taken for an RPC version because no release of that name is known yet; "
        f"write {RPC_PREFIX}{pin.cap}, or the name of a release"
    )


def _join(notes: Sequence[str]) -> str:
    return "".join(f", {note}" for note in notes)
