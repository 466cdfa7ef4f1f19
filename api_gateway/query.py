"""Query strings: which parameters there are, how often each may come, and what their values may be."""

from collections.abc import Collection, Mapping
from urllib.parse import quote, urlencode

from api_gateway.context import Request
from api_gateway.faults import bad_request

_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "off", "n", "no"})


def read_query(request: Request) -> dict[str, list[str]]:
    """All parameters with all their values."""
    return {name: [value] if isinstance(value, str) else list(value) for name, value in request.params.items()}


def check_known(query: Mapping[str, object], known: Collection[str]) -> None:
    """:raises Fault: 400 naming the first parameter that is not ``known``."""
    for name in query:
        if name not in known:
            known_names = f"known are {', '.join(sorted(known))}" if known else "there are none here"
            raise bad_request(f"Unknown parameter '{name}'; {known_names}.")


def find_single(query: Mapping[str, list[str]], name: str) -> str | None:
    """The value of a parameter that may come once.

    :raises Fault: 400 when it comes more than once.
    """
    values = query.get(name)
    if values is None:
        return None
    if len(values) != 1:
        raise bad_request(f"Invalid input for query parameters {name}. Value: {values}. {values} is too long")
    return values[0]


def parse_limit(query: Mapping[str, list[str]], max_page: int) -> int:
    """How many items the page may have: what was asked for, at most ``max_page``.

    :raises Fault: 400 unless it is given once, in digits.
    """
    text = find_single(query, "limit")
    if text is None:
        return max_page
    if not (text.isascii() and text.isdecimal()):
        raise bad_request(f"Invalid input for query parameters limit. Value: {text}. '{text}' does not match '^[0-9]*$'")
    digits = text.lstrip("0")
    return max_page if len(digits) > len(str(max_page)) else min(int(digits or "0"), max_page)


def parse_boolean(text: str) -> bool:
    """:raises Fault: 400 when the text is neither a yes nor a no."""
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    acceptable = ", ".join(f"'{known}'" for known in sorted(_TRUE | _FALSE))
    raise bad_request(f"Invalid input received: Unrecognized value '{text}', acceptable values are: {acceptable}")


def parse_lenient_boolean(text: str) -> bool:
    """Whether the text is a yes; everything else is a no."""
    return text.strip().lower() in _TRUE


def link_next(request: Request, query: Mapping[str, list[str]], last: str, *, name: str = "marker") -> list[dict[str, str]]:
    """The same request behind the item with the id ``last``; ``name`` is the parameter that says so."""
    following = {**query, name: [last]}
    return [{"rel": "next", "href": f"{request.prefix}{quote(request.path)}?{urlencode(following, doseq=True, errors='replace')}"}]
