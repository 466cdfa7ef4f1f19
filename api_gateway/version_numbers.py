"""RPC versions as agents and operators write them: texts that may be anything."""

import re
from functools import lru_cache

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")


@lru_cache(maxsize=64)
def find_version(text: str) -> tuple[int, int] | None:
    """Its major and minor number; None: it is no version that can be read."""
    match = _NUMBER.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]))


def understands(spoken: str, needed: str) -> bool:
    """The same major number and at least the same minor one; who says what cannot be read understands nothing."""
    spoken_numbers, needed_numbers = find_version(spoken), find_version(needed)
    if spoken_numbers is None or needed_numbers is None:
        return False
    return spoken_numbers[0] == needed_numbers[0] and spoken_numbers[1] >= needed_numbers[1]
