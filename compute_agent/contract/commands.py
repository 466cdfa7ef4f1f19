"""How a command comes up: what it is, is answered before what it runs is loaded, and what many threads do to its memory is bounded."""

import ctypes
import gc
import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from oslo_config import cfg

_QUESTIONS = frozenset({"-h", "--help", "--version"})
_M_ARENA_MAX = -8
"""Of ``mallopt`` in glibc's ``malloc.h``."""
_ARENAS = 1


def run_command(answer: Callable[[], object], module: str, *, unused: Collection[str] = ()) -> int:
    """Load ``module`` and run its ``main``; returns the exit code.

    :param answer: answers what its command line asks about the command, and ends the process; called when it asks
    :param unused: libraries that others load where they are installed, for what is never asked of them here
    """
    if _QUESTIONS.intersection(sys.argv[1:]):
        with suppress(cfg.Error):  # of its configuration file, which it reads first: what is run says what is wrong with that
            answer()
    _share_arenas()
    with _hiding(unused):
        loaded = _load(module)
    return int(loaded.main())


@contextmanager
def _hiding(libraries: Collection[str]) -> Iterator[None]:
    """As if they were not installed, for whoever is loaded in the block; who comes later (a driver, say) may have them all the same."""
    hidden = set(libraries) - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None there means: there is none
    try:
        yield
    finally:
        for library in hidden:
            del sys.modules[library]


def _load(module: str) -> ModuleType:
    """Nothing of what a module makes is garbage, and it lives as long as the process: it is looked through neither meanwhile (measured: a
    tenth of the time) nor ever after, when a look at all of it would stop every thread for as long as a request takes."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _share_arenas() -> None:
    """Let all threads take memory out of one place. By default glibc gives each of the first sixteen (with two processors) one of its own,
    and what is free in one is of no use to the others (measured: 6 MiB in an agent)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library has none, and no such places
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
