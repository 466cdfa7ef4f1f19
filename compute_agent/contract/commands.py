"""How a command comes up: what it is, is answered before what it runs is loaded."""

import gc
import importlib
import sys
from collections.abc import Callable
from types import ModuleType

_QUESTIONS = frozenset({"-h", "--help", "--version"})


def run_command(answer: Callable[[], object], module: str) -> int:
    """Load ``module`` and run its ``main``; returns the exit code.

    :param answer: answers what its command line asks about the command, and ends the process; called when it asks
    """
    if _QUESTIONS.intersection(sys.argv[1:]):
        answer()
    return int(_load(module).main())


def _load(module: str) -> ModuleType:
    """Nothing of what a module makes is garbage, and it lives as long as the process: it is looked through neither meanwhile (measured: a
    tenth of the time) nor ever after, when a look at all of it would stop every thread for as long as a request takes."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()
