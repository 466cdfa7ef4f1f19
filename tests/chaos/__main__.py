"""``devstack/chaos``: the promises under attack in real processes."""

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from devstack.databases import DatabaseKind
from devstack.ports import find_free_base
from devstack.steps import StepFailed, Steps
from tests.chaos.catalogue import choose_faults, list_faults
from tests.chaos.run import Wish, judge, run_chaos

_REAL_RATE = 3.0
_CLUSTER_RATE = 7.0
"""Three nodes and a server that waits for its disk share this machine's processors with everything else."""


def main(argv: list[str] | None = None) -> int:
    """0: no violation; 1: there are, or it could not run; 130: interrupted."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _leave)
    steps = Steps()
    try:
        if arguments.list:
            for name, fault in list_faults().items():
                steps.say(f"{name:26} {(type(fault).__doc__ or '').strip().splitlines()[0] if type(fault).__doc__ else ''}")
            return 0
        if arguments.judge is not None:
            result = judge(arguments.judge)
            steps.say(result.text)
            return 1 if result.violations else 0
        return _run(arguments, steps)
    except StepFailed as failure:
        print(f"\n{failure.explain()}", file=sys.stderr)
    except (OSError, LookupError, TimeoutError, subprocess.SubprocessError) as error:
        print(f"\nchaos: FAILED: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nchaos: interrupted; every process was stopped", file=sys.stderr)
        return 130
    return 1


def _run(arguments: argparse.Namespace, steps: Steps) -> int:
    names = _split(arguments.faults)
    choose_faults(names)
    wish = Wish(
        seed=arguments.seed,
        minutes=arguments.minutes,
        rate=arguments.rate or _find_rate(arguments),
        has_real_guests=arguments.guests == "real",
        hosts=arguments.hosts,
        faults=names,
        targets=_split(arguments.targets),
        database=arguments.deployment,
        broker_nodes=1 if arguments.deployment is DatabaseKind.SQLITE else 3,
        gateways=1 if arguments.deployment is DatabaseKind.SQLITE else 2,
    )
    port = find_free_base(wish.port_blocks) if arguments.port is None else arguments.port
    with tempfile.TemporaryDirectory(prefix="crashcart-chaos-") as scratch:
        directory = Path(scratch) if arguments.keep_history is None else arguments.keep_history.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / "history.jsonl").exists():
            raise StepFailed(f"{directory} holds the history of another run", advice="give another directory with --keep-history")
        result = run_chaos(directory, port, wish, steps)
    steps.say("")
    steps.say(result.text)
    steps.say("")
    if arguments.keep_history is not None:
        steps.say(f"history: {result.history}; judge it again: devstack/chaos --judge {result.history}")
    elif result.violations:
        steps.say(f"again, with everything kept: devstack/chaos --seed {wish.seed} --minutes {wish.minutes:g} --keep-history DIR")
    return 1 if result.violations or not result.figures.actions else 0


def _find_rate(arguments: argparse.Namespace) -> float:
    if arguments.guests == "real":
        return _REAL_RATE
    return Wish.rate if arguments.deployment is DatabaseKind.SQLITE else _CLUSTER_RATE


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _leave(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="devstack/chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which faults strike when; the same seed, the same schedule (default 1)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long traffic and faults go on (default 2)")
    parser.add_argument(
        "--rate",
        type=float,
        help=f"actions asked for a second (default {Wish.rate:g}, with a cluster {_CLUSTER_RATE:g}, of real guests {_REAL_RATE:g})",
    )
    parser.add_argument("--hosts", type=int, default=Wish.hosts, help="hosts with fake guests, an agent each (default %(default)d)")
    parser.add_argument(
        "--guests", choices=("fake", "real"), default="fake", help="real: one host with a handful of guests in QEMU, each with a watchdog"
    )
    parser.add_argument(
        "--deployment",
        type=DatabaseKind,
        choices=list(DatabaseKind),
        default=DatabaseKind.SQLITE,
        help="sqlite: one gateway, one broker node (default); postgresql, mariadb: two APIs, two engines, three broker nodes",
    )
    parser.add_argument("--faults", metavar="LIST", default="", help="these alone, separated by commas; --list names them")
    parser.add_argument(
        "--targets", metavar="LIST", default="", help="only parts, links and hosts whose name has one of these words (database,broker-2)"
    )
    parser.add_argument("--keep-history", type=Path, metavar="DIR", help="keep the history, the logs and all files in this directory")
    parser.add_argument("--port", type=int, help="first of the ten ports of 127.0.0.1 that it uses (default: free ones)")
    parser.add_argument("--list", action="store_true", help="list the faults, do nothing")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge a kept history again, do nothing else")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
