"""Steps that need not wait for each other, and endings of which none may be left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor


def run_side_by_side(*steps: Callable[[], None], at_once: int | None = None) -> None:
    """Run every step in a thread of its own, no more than ``at_once`` of them; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(at_once or len(steps)) as pool:
        for future in [pool.submit(step) for step in steps]:
            future.result()


def end_each(endings: Mapping[str, Callable[[], object]]) -> list[str]:
    """Call every one, in this order, whatever becomes of the others; each that failed, by its name, and why."""
    problems = []
    for name, end in endings.items():
        try:
            end()
        except Exception as error:  # noqa: BLE001 -- whatever it was: it is told, and the others are ended
            problems.append(f"{name}: {str(error) or type(error).__name__}")
    return problems
