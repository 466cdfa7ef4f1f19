"""Steps that need not wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def run_side_by_side(*steps: Callable[[], None], at_once: int | None = None) -> None:
    """Run every step in a thread of its own, no more than ``at_once`` of them; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(at_once or len(steps)) as pool:
        for future in [pool.submit(step) for step in steps]:
            future.result()
