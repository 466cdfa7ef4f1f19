"""How the threads of one process take turns."""

import sys

_TURN = 0.0005


def take_short_turns() -> None:
    """Let a thread that became runnable wait half a millisecond for the interpreter instead of Python's five.

    For each process's start. An action passes through several threads one after the other, each awake for well under a millisecond; with
    turns of five it may wait longer for their turns than for the disk (seen: 6 ms between the dispatcher's claim and the cast).
    """
    sys.setswitchinterval(_TURN)
