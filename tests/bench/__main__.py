"""Runs the benchmarks, each on what it needs, and writes the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from devstack.steps import StepFailed
from tests.bench import (
    accepting,
    backpressure,
    bare_metal,
    bmc_fleet,
    broker_footprint,
    calls,
    hops,
    listing,
    recording,
    recovery,
    scale,
    start,
    throughput,
)
from tests.bench.figures import Figure, Report


def _measure_footprint(chosen: argparse.Namespace) -> list[Figure]:
    from tests.bench import footprint  # needs libvirt, which the other suites do without

    return footprint.measure(chosen.actions)


def _measure_idle(chosen: argparse.Namespace) -> list[Figure]:
    from tests.bench import idle  # needs libvirt as well

    return idle.measure(chosen.runs)


def _measure_crash_dump(chosen: argparse.Namespace) -> list[Figure]:
    from tests.bench import crash_dump_latency  # needs libvirt as well

    return crash_dump_latency.measure_on_own_stack(chosen.runs)


def _measure_diagnostics(chosen: argparse.Namespace) -> list[Figure]:
    from tests.bench import diagnostics  # needs libvirt as well

    return diagnostics.measure(chosen.runs, chosen.guests)


def _measure_watchdogs(chosen: argparse.Namespace) -> list[Figure]:
    from tests.bench import watchdogs  # needs libvirt as well

    return watchdogs.measure(chosen.runs)


SUITES: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "accepting": lambda chosen: accepting.measure(chosen.runs),
    "backpressure": lambda chosen: backpressure.measure(chosen.runs, chosen.posts),
    "bare-metal": lambda chosen: bare_metal.measure(chosen.runs) + bmc_fleet.measure(chosen.runs, chosen.machines),
    "broker": lambda chosen: broker_footprint.measure(),
    "calls": lambda chosen: calls.measure(chosen.runs),
    "crash-dump": _measure_crash_dump,
    "diagnostics": _measure_diagnostics,
    "footprint": _measure_footprint,
    "hops": lambda chosen: hops.measure(max(chosen.runs, hops.LEAST_RUNS)),
    "idle": _measure_idle,
    "listing": lambda chosen: listing.measure(chosen.runs),
    "recording": lambda chosen: recording.measure(chosen.runs),
    "recovery": lambda chosen: recovery.measure(chosen.runs),
    "scale": lambda chosen: scale.measure(scale.Scale(chosen.fleet, rate=chosen.events, seconds=chosen.seconds), chosen.database),
    "start": lambda chosen: start.measure(chosen.runs),
    "throughput": lambda chosen: throughput.measure(throughput.Scale(chosen.hosts, chosen.seconds), chosen.database),
    "watchdogs": _measure_watchdogs,
}
"""By the name that the command line knows: how fast actions are taken on, what a dead and a slow host do to the others, NMIs through BMCs
and an agent with hundreds of them, what agents cost the broker, how fast agents are asked, real guests, what diagnostics cost, memory after
many actions, where an action's time goes, what an idle agent costs, pages of servers, how fast events are recorded, how soon all is well
after a fault, what a thousand hosts cost the gateway, how soon the commands are ready, how many actions a second go all the way, firings of
watchdogs."""


def main() -> int:
    """Run; 0 when everything could be measured."""
    parser = argparse.ArgumentParser(prog="devstack/bench", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"which ones: {', '.join(SUITES)} (default: all)")
    parser.add_argument("--runs", type=int, default=20, help="samples of each figure (default %(default)s)")
    parser.add_argument("--guests", type=int, default=50, help="diagnostics: guests at most (default %(default)s)")
    parser.add_argument("--machines", type=int, default=500, help="bare-metal: simulated BMCs at one agent (default %(default)s)")
    parser.add_argument("--posts", type=int, default=10_000, help="backpressure: actions at a dead and a slow host (default %(default)s)")
    parser.add_argument("--actions", type=int, default=10_000, help="footprint: actions before memory is looked at (default %(default)s)")
    throughput.add_options(parser)
    scale.add_options(parser)
    parser.add_argument("--output", type=Path, default=None, help="write bench.md and bench.json into this directory")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    report = Report()
    try:
        for name in arguments.suites or SUITES:
            report.figures += SUITES[name](arguments)
    except StepFailed as failure:
        print(f"\n{failure.explain()}", file=sys.stderr)
        return 1
    except (TimeoutError, RuntimeError) as error:
        print(f"\nbench: FAILED: {error}", file=sys.stderr)
        return 1
    table = report.to_markdown()
    print("\n" + table)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "bench.md").write_text(table)
        report.write_json(arguments.output / "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
