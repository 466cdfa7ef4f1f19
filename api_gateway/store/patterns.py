"""Regular expressions from outside: any of them takes a time that grows with the text alone, never with what its writer thought up.

SQLite searches with RE2 in place of Python's engine, which a pattern like ``(a|a)*b`` keeps busy for ever with all other threads waiting.
What RE2 cannot do (references back, looking around) is refused for every database: those are what makes other engines slow too.
"""

from functools import lru_cache
from typing import Any

LONGEST_PATTERN = 255


class BadPattern(ValueError):
    """This text is no regular expression that we search with; the text of the error says why."""


def check_pattern(pattern: str) -> None:
    """:raises BadPattern: see there."""
    if len(pattern) > LONGEST_PATTERN:
        raise BadPattern(f"it is longer than {LONGEST_PATTERN} characters")
    import re2  # here and below: 2.5 MiB of a process that only those need who search

    try:
        _compile(pattern)
    except re2.error as error:
        raise BadPattern(error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)) from error
    except UnicodeEncodeError as error:
        raise BadPattern("it is not Unicode") from error


def search(pattern: str, text: str | None) -> bool | None:
    """SQLite's ``REGEXP``: whether the pattern is found anywhere in the text; NULL is neither found nor not."""
    return None if text is None else _compile(pattern).search(text) is not None


@lru_cache(maxsize=64)
def _compile(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)
