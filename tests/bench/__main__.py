"""Runs the benchmarks on a stack of their own and writes the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import libvirt

from devstack.ports import find_free_base
from devstack.stack import Stack
from devstack.steps import StepFailed
from tests.bench import crash_dump_latency
from tests.bench.figures import Report


def main() -> int:
    """Run; 0 when everything could be measured."""
    parser = argparse.ArgumentParser(prog="devstack/bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="samples of each figure (default %(default)s)")
    parser.add_argument("--output", type=Path, default=None, help="write bench.md and bench.json into this directory")
    arguments = parser.parse_args()
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_libvirt_events, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory(prefix="crashcart-bench-") as directory:
            report = _measure(Path(directory), arguments.runs)
    except StepFailed as failure:
        print(f"\n{failure.explain()}", file=sys.stderr)
        return 1
    table = report.to_markdown()
    print("\n" + table)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "bench.md").write_text(table)
        report.write_json(arguments.output / "bench.json")
    return 0


def _measure(directory: Path, runs: int) -> Report:
    stack = Stack(directory, find_free_base(), guests=crash_dump_latency.GUESTS, holdoff=0)
    try:
        stack.up()
        return Report({"libvirt": _format_libvirt_version()}, crash_dump_latency.measure(stack, runs))
    finally:
        stack.down()


def _run_libvirt_events() -> None:
    run: Callable[[], int] = libvirt.virEventRunDefaultImpl
    while run() == 0:
        pass


def _format_libvirt_version() -> str:
    number = libvirt.getVersion()
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


if __name__ == "__main__":
    sys.exit(main())
