"""Which of a BMC's logs is read, and how its entries are fetched: in few exchanges, however long it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import (
    Document,
    as_path,
    find,
    find_count,
    find_link,
    find_text,
    iterate_documents,
    last_segment,
    list_links,
)
from compute_agent.drivers.redfish.errors import Refused, Unusable
from compute_agent.drivers.redfish.log_cursor import is_newest_first

_MOST_PAGES = 40
_MOST_ENTRIES = 20_000
_MOST_SERVICES = 12
_MOST_SINGLE = 100
"""Entries that are fetched one by one, of a BMC that lists them by reference only."""
_NOT_OF_THE_MACHINE = ("dump", "post", "hostlogger", "audit", "journal", "security", "iel", "debug", "crash", "console")
"""What the names of logs contain in which nobody looks for what happened to the machine."""
_OF_EVENTS = ("event", "iml", "system", "platform", "log1", "hardware")
_WRAPS = "WrapsWhenFull"


@dataclass(frozen=True)
class LogPlace:
    """A log: where its entries are, where the clock is that it is written by, and how many a full ring has (None: it is none)."""

    entries: str
    clock: str
    ring: int | None


@dataclass(frozen=True)
class Listing:
    """Entries as the BMC lists them, from place ``first`` on (0: from the beginning). ``is_complete``: none is missing after them."""

    entries: Sequence[Document]
    first: int = 0
    is_complete: bool = True


def find_log(visit: Visit, system: Document) -> LogPlace | None:
    """The log in which the machine's events are: its own before its manager's, an IPMI event log before others; None: there is none.

    Only one is read: what two logs tell would be told twice.
    """
    found: list[tuple[int, int, LogPlace]] = []
    managers = list_links(system, "Links", "ManagedBy")[:1]
    documents = [system, *(document for path in managers if (document := visit.find(path)) is not None)]
    for owner in documents:
        services = visit.find(find_link(owner, "LogServices"))
        for path in list_links(services, "Members")[:_MOST_SERVICES]:
            service = visit.find(path)
            entries, rank = find_link(service, "Entries"), _rank(path, service)
            if service is None or entries is None or rank is None:
                continue
            clock = path if find_text(service, "DateTime") else managers[0] if managers else path
            ring = find_count(service, "MaxNumberOfRecords") if find_text(service, "OverWritePolicy") == _WRAPS else None
            found.append((rank, len(found), LogPlace(entries, clock, ring)))
    return min(found)[2] if found else None


def _rank(path: str, service: Document | None) -> int | None:
    """Lower is better; None: not this one."""
    names = f"{last_segment(path)} {find_text(service, 'Id') or ''} {find_text(service, 'Name') or ''}".lower()
    if find(service, "ServiceEnabled") is False or any(word in names for word in _NOT_OF_THE_MACHINE):
        return None
    kind = find_text(service, "LogEntryType")
    if kind == "SEL" or "sel" in last_segment(path).lower():
        return 0
    return 1 if kind == "Event" or any(word in names for word in _OF_EVENTS) else 2


def list_entries(visit: Visit, path: str, has_all: Callable[[Document], bool] | None = None) -> Listing:
    """All entries; of a log that is listed newest first, those down to the first one of which ``has_all`` says that the rest is known.

    :raises Unusable: it is too long to be read.
    """
    entries: list[Document] = []
    page = visit.get(path)
    for _ in range(_MOST_PAGES):
        found = _list_members(visit, page)
        entries += found
        rest = as_path(find(page, "Members@odata.nextLink"))
        if rest is None:
            return Listing(entries)
        if has_all is not None and is_newest_first(entries) and any(has_all(entry) for entry in found):
            return Listing(entries)
        if len(entries) > _MOST_ENTRIES:
            break
        page = visit.get(rest)
    raise Unusable(f"it is longer than {len(entries)} entries and gives them in pieces only")


def list_from(visit: Visit, path: str, first: int, begins_there: Callable[[Document], bool]) -> Listing | None:
    """The entries from place ``first`` on, of a log to whose end new ones are added; None: this BMC does not start there, by what
    ``begins_there`` says of the first entry.

    A very long rest is left for the next time.
    """
    try:
        page = visit.get(f"{path}{'&' if '?' in path else '?'}$skip={first}")
    except Refused as refusal:
        if refusal.denies_access or refusal.status >= 500:
            raise
        return None
    entries = _list_members(visit, page)
    if not entries or not begins_there(entries[0]):
        return None
    for _ in range(_MOST_PAGES):
        rest = as_path(find(page, "Members@odata.nextLink"))
        if rest is None:
            return Listing(entries, first)
        page = visit.get(rest)
        entries += _list_members(visit, page)
    return Listing(entries, first, is_complete=False)


def list_last(visit: Visit, path: str, number: int) -> Listing:
    """At least the last ``number`` entries, where there are so many.

    :raises Unusable: the log is too long to be read to its end.
    """
    page = visit.get(path)
    members, count = _list_members(visit, page), find_count(page, "Members@odata.count")
    if find(page, "Members@odata.nextLink") is None or is_newest_first(members):
        return Listing(members)
    if count is not None and count > len(members):
        # The same first entry again: this BMC starts at the beginning, whatever it is asked for.
        tail = list_from(visit, path, max(1, count - number), lambda entry: entry != members[0])
        if tail is not None and tail.is_complete:
            return tail
    return list_entries(visit, path)


def _list_members(visit: Visit, page: Document) -> list[Document]:
    """:raises Unusable: they are too many to be looked at."""
    members = list(iterate_documents(page, "Members"))
    if len(members) > _MOST_ENTRIES:
        raise Unusable(f"it gives {len(members)} entries at once")
    single = [member for member in members if set(member) <= {"@odata.id"}]
    if len(single) > _MOST_SINGLE:
        raise Unusable(f"it gives {len(single)} entries one by one only")
    return [visit.get(link) if member in single and (link := find_link({"at": member}, "at")) else member for member in members]
