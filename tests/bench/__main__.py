"""Runs the benchmarks, each on what it needs, and writes the table."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack import machine_speed
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


@dataclass(frozen=True)
class Suite:
    """One that the command line knows: what it finds out, and how."""

    finds: str
    measure: Callable[[argparse.Namespace], list[Figure]]


SUITES = {
    "accepting": Suite("crash dumps taken on in a second, what logging in costs", lambda chosen: accepting.measure(chosen.runs)),
    "backpressure": Suite(
        "what the others feel of a dead host, a slow one and a queue that nobody reads",
        lambda chosen: backpressure.measure(chosen.runs, chosen.posts),
    ),
    "bare-metal": Suite(
        "NMIs through BMCs, and an agent with hundreds of them",
        lambda chosen: bare_metal.measure(chosen.runs) + bmc_fleet.measure(chosen.runs, chosen.machines),
    ),
    "broker": Suite("what agents that only listen cost the broker", lambda _chosen: broker_footprint.measure()),
    "calls": Suite("questions to agents in a second", lambda chosen: calls.measure(chosen.runs)),
    "crash-dump": Suite("crash dumps of real guests, from the POST to the panic", _measure_crash_dump),
    "diagnostics": Suite("what diagnostics and their sampler cost", _measure_diagnostics),
    "footprint": Suite("memory after many actions", _measure_footprint),
    "hops": Suite("where the time of one action goes, on an idle system", lambda chosen: hops.measure(max(chosen.runs, hops.LEAST_RUNS))),
    "idle": Suite("what an agent costs that has nothing to do", _measure_idle),
    "listing": Suite("pages of servers, and what happened to one", lambda chosen: listing.measure(chosen.runs)),
    "recording": Suite("events recorded in a second", lambda chosen: recording.measure(chosen.runs)),
    "recovery": Suite("how soon all is well after a fault", lambda chosen: recovery.measure(chosen.runs)),
    "scale": Suite(
        "what a thousand simulated hosts cost the gateway and the broker",
        lambda chosen: scale.measure(scale.Scale(chosen.fleet, rate=chosen.events, seconds=chosen.seconds), chosen.database),
    ),
    "start": Suite("how soon the services are ready, and --help", lambda chosen: start.measure(chosen.runs)),
    "throughput": Suite(
        "actions in a second that go all the way, with an agent process for each host",
        lambda chosen: throughput.measure(throughput.Scale(chosen.hosts, chosen.seconds), chosen.database),
    ),
    "watchdogs": Suite("firings of real watchdogs, told and recorded", _measure_watchdogs),
}


def main() -> int:
    """Run; 0 when everything could be measured."""
    suites = "\n".join(f"  {name:<14}{suite.finds}" for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="devstack/bench", description=__doc__, epilog=f"suites:\n{suites}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="which ones (default: all)")
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
    complaint = None
    began = time.monotonic()
    try:
        for name in arguments.suites or SUITES:
            report.slowness.append(machine_speed.compare())
            print(f"[{time.monotonic() - began:7.1f} s] {name}: {SUITES[name].finds}", flush=True)
            report.figures += SUITES[name].measure(arguments)
        report.slowness.append(machine_speed.compare())
    except KeyboardInterrupt:
        complaint = f"bench: interrupted in {name}; what was measured before it is above"
    except StepFailed as failure:
        complaint = failure.explain()
    except (TimeoutError, RuntimeError, subprocess.SubprocessError) as error:
        complaint = f"bench: FAILED: {error}"
    if report.figures:  # also those of the suites before one that failed: they took their time
        _write(report, arguments.output)
    if complaint is not None:
        print(f"\n{complaint}", file=sys.stderr)
    return 0 if complaint is None else 1


def _write(report: Report, directory: Path | None) -> None:
    table = report.to_markdown()
    print("\n" + table)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "bench.md").write_text(table)
        report.write_json(directory / "bench.json")


if __name__ == "__main__":
    sys.exit(main())
