"""Worlds without end: simulate as many actions as are asked for, on all processors, and say what was hit and what was broken.

``devstack/simulate --actions 1000000``. Exit code: 0 when every promise held and the probes are full, 1 when one was broken, 2 when some
pair of commit point and fault was never hit.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path

from tests.databases import write_database
from tests.simulation.probes import WANTED, Hits, list_rare, tell
from tests.simulation.report import tell_failure
from tests.simulation.running import run_script
from tests.simulation.script import draw_script

_MEMORY = Path("/dev/shm")
_MOST_FAILURES = 5
_TOLD_EVERY = 10.0
"""Seconds between two lines of progress."""


@dataclass
class Played:
    """One seed: how many actions were accepted, virtual seconds that passed, CPU seconds that it took; ``failure`` for people, or empty."""

    seed: int
    actions: int
    refused: int
    simulated: float
    cpu: float
    hits: Hits
    failure: str = ""


@dataclass
class Total:
    """All seeds so far."""

    seeds: int = 0
    actions: int = 0
    refused: int = 0
    simulated: float = 0.0
    cpu: float = 0.0
    hits: Hits = field(default_factory=Counter)
    broken: list[int] = field(default_factory=list)

    def add(self, played: Played) -> None:
        self.seeds += 1
        self.actions += played.actions
        self.refused += played.refused
        self.simulated += played.simulated
        self.cpu += played.cpu
        self.hits.update(played.hits)
        if played.failure:
            self.broken.append(played.seed)

    def tell(self, began_at: float) -> str:
        seconds = time.monotonic() - began_at
        return (
            f"{self.actions:,} actions ({self.refused:,} refused) in {self.seeds:,} worlds, {len(self.broken)} broken; {seconds:.0f} s: "
            f"{self.actions / seconds:.0f} actions/s, {1000 * self.cpu / max(self.actions, 1):.1f} ms CPU per action, "
            f"{self.simulated / max(self.cpu, 0.001):.0f} simulated s per CPU s"
        )


class _Player:
    """One process's work; the folder and the template are its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crashcart-proof-", dir=os.environ["CRASHCART_PROOF_FOLDER"]))
        self.template = write_database(self.folder / "template.sqlite")

    def play(self, seed: int) -> Played:
        began = time.process_time()
        script = draw_script(seed)
        violations, world = run_script(script, self.template, self.folder / "run")
        played = Played(
            seed,
            len(world.accepted),
            sum(world.refusals.values()),
            world.kernel.time,
            time.process_time() - began,
            world.probes.hits,
        )
        if violations:
            played.failure = tell_failure(seed, world, violations, self.template, self.folder / "shrinking")
        return played


_player: _Player | None = None


def _begin() -> None:
    global _player
    _player = _Player()
    gc.freeze()


def _play(seed: int) -> Played:
    assert _player is not None
    played = _player.play(seed)
    gc.collect()
    return played


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the actions or the seeds are done, or too much is broken."""
    options = _read_options(arguments)
    with tempfile.TemporaryDirectory(prefix="crashcart-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        os.environ["CRASHCART_PROOF_FOLDER"] = folder
        total = _run(options)
    for line in tell(total.hits):
        print(line)
    rare = list_rare(total.hits, 1)
    if total.broken:
        print(f"BROKEN by the seeds {', '.join(map(str, total.broken))}")
        return 1
    if rare:
        print("never hit: " + "; ".join(f"{point} while {fault}" for point, fault in rare))
    too_rare = len(list_rare(total.hits, WANTED))
    print(f"no promise was broken; {too_rare} pairs were hit less than {WANTED} times")
    return 2 if rare else 0


def _run(options: argparse.Namespace) -> Total:
    total, began_at, told_at = Total(), time.monotonic(), time.monotonic()
    seeds: range = range(options.seed, sys.maxsize) if options.seeds is None else options.seeds
    # A process of its own for each part of the seeds, made anew now and then: nothing that one world leaves behind reaches far.
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, _begin, maxtasksperchild=500) as pool:
        for played in pool.imap_unordered(_play, seeds) if options.seeds is not None else _play_on(pool, seeds, options.jobs):
            total.add(played)
            if played.failure:
                print(f"\n{played.failure}\n", flush=True)
            if time.monotonic() - told_at > _TOLD_EVERY:
                told_at = time.monotonic()
                print(total.tell(began_at), flush=True)
            if len(total.broken) >= _MOST_FAILURES or (options.seeds is None and total.actions >= options.actions):
                break
    print(total.tell(began_at), flush=True)
    return total


def _play_on(pool: Pool, seeds: range, jobs: int) -> Iterator[Played]:
    """The seeds in chunks, so that no more are begun than can be used."""
    numbers = iter(seeds)
    while True:
        yield from pool.imap_unordered(_play, [next(numbers) for _ in range(8 * jobs)])


def _read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="devstack/simulate", description="Simulate worlds, each from one seed, and judge each of them.")
    parser.add_argument("--actions", type=int, default=20_000, help="go on until so many actions were accepted (default: 20000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per processor)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seeds", type=_read_seeds, help="play these seeds and no others: FIRST-LAST")
    return parser.parse_args(arguments)


def _read_seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
