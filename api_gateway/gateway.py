"""What every handler is given: the store, the clock, and the few settings that requests depend on."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from api_gateway.acceptance import Terms
from api_gateway.agent_calls import AgentCalls
from api_gateway.deliveries.targets import TargetRules
from api_gateway.last_reports import LastReports
from api_gateway.native.waiting import LongPolls
from api_gateway.reception import Reception
from api_gateway.rpc_versions import Speech
from api_gateway.store import Store
from compute_agent.contract.clock import Clock


@dataclass(frozen=True)
class Settings:
    """The part of the configuration that decides about requests."""

    crash_dump_deadline: timedelta
    """How long a crash dump that names no deadline may wait for its agent."""
    max_deadline: timedelta
    crash_dump_holdoff: timedelta
    """How long after a crash dump's signal another one of the same server is refused; zero: never."""
    max_open_actions_per_host: int
    """A host with so many open actions takes no further one."""
    max_wait: float
    """The longest long poll, in seconds."""
    max_page: int
    """The most items that one page holds, whatever ``limit`` says."""
    diagnostics_max_age: timedelta
    """How old the last known diagnostics may be that are told while a host does not answer."""
    stream_url: str
    """Where the event stream's listener is reached, without a path."""
    max_subscriptions: int
    """How many a project may have."""
    target_rules: TargetRules
    """Where subscriptions may lead."""


@dataclass(frozen=True)
class Gateway:
    """One worker process's means. ``wake`` tells the dispatcher that there is something to cast; it never blocks and may fail to.
    ``new_id`` makes a UUID. ``speech`` knows what agents can be told, ``agent_calls`` asks them. ``reception`` takes actions on, on
    ``terms``."""

    store: Store
    clock: Clock
    wake: Callable[[], object]
    new_id: Callable[[], str]
    settings: Settings
    long_polls: LongPolls
    speech: Speech
    agent_calls: AgentCalls
    last_reports: LastReports
    terms: Terms
    reception: Reception
