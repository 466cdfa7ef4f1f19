"""Which kinds of actions an agent runs, composed from its configuration."""

from collections.abc import Callable

from oslo_config import cfg

from compute_agent.collector import Collector
from compute_agent.contract.clock import Clock
from compute_agent.crash_dump import CrashDump, HoldOff
from compute_agent.diagnostics_action import CollectDiagnostics
from compute_agent.drivers.base import Driver
from compute_agent.host_dump_action import TakeHostDump
from compute_agent.host_dumps import HostDumps
from compute_agent.journal import Journal
from compute_agent.kinds import Kind
from compute_agent.reset_timer_action import ResetWatchdogTimer
from compute_agent.resume_action import Resume
from compute_agent.watchdog_actions import RemoveWatchdog, SetWatchdog


def create_kinds(
    conf: cfg.ConfigOpts,
    journal: Journal,
    driver: Driver,
    clock: Clock,
    collector: Collector,
    host_dumps: HostDumps,
    has_untold_nmi: Callable[[str], bool],
) -> list[Kind]:
    """One for each ``ActionKind``."""
    holdoff = HoldOff(clock, conf.agent.crash_dump_holdoff, has_untold_nmi)
    return [
        CrashDump(journal, driver, clock, holdoff),
        CollectDiagnostics(journal, driver, clock, collector.get_report),
        TakeHostDump(journal, driver, clock, host_dumps, holdoff, limit=conf.host_dump.limit),
        SetWatchdog(journal, driver, clock),
        RemoveWatchdog(journal, driver, clock),
        Resume(journal, driver, clock),
        ResetWatchdogTimer(journal, driver, clock),
    ]
