"""The machines in force: the inventory's entries, each with the BMC behind it or the reason why there is none."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compute_agent.drivers.bmc.credentials import read_secret
from compute_agent.drivers.bmc.inventory import Entry, InventoryFile, InventoryUnreadable, Problem, WrongValue, read_inventory
from compute_agent.drivers.bmc.protocol import Bmc, Protocol, Target
from compute_agent.drivers.bmc.protocols import ProtocolNotLoaded, Protocols
from compute_agent.drivers.errors import BackendUnavailable, ServerNotFound

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """One machine. ``link`` None: its entry cannot be used, and ``problem`` says why."""

    server: str
    name: str
    project: str | None = None
    user: str | None = None
    link: "Link | None" = None
    problem: str = ""

    def get_link(self) -> "Link":
        """:raises BackendUnavailable: there is no way to its BMC."""
        if self.link is None:
            raise BackendUnavailable(self.server, self.problem)
        return self.link


@dataclass(frozen=True)
class Link:
    """The way to a machine's BMC. ``place`` tells it from every other BMC: one that answers elsewhere has a log of its own."""

    protocol: Protocol
    target: Target
    bmc: Bmc

    @property
    def place(self) -> str:
        target = self.target
        return "|".join((self.protocol.name, target.address.lower(), str(target.port), target.system or ""))


@dataclass(frozen=True)
class Changes:
    """What a reload did, by server. ``altered``: described in another way, reached in another way, or no more, or again."""

    came: frozenset[str] = frozenset()
    went: frozenset[str] = frozenset()
    altered: frozenset[str] = frozenset()


class Fleet:
    """Reads the inventory once at the start and again when told; one thread loads, any thread asks.

    A file that cannot be read at the start leaves no machines but a reason; later, the former machines.
    """

    def __init__(self, path: Path, protocols: Protocols) -> None:
        self._path = path
        self._protocols = protocols
        self._unreadable = "the inventory was not read yet"
        self._machines: Mapping[str, Machine] = {}

    def load(self) -> Changes:
        """Put what the file says now into force; what is wrong in it is logged. Never raises for it."""
        complaint = None
        try:
            file = read_inventory(self._path)
        except InventoryUnreadable as error:
            complaint = str(error)
        # Out here, as oslo.log adds the exception that is being caught to each line, which would say all of it twice.
        if complaint is not None:
            if self._unreadable:
                self._unreadable = complaint
            consequence = "" if self._unreadable else "; the one that was read before stays in force"
            LOG.error("%s%s: correct it, then send SIGHUP", complaint, consequence)
            return Changes()
        before = self._machines
        after, left_out = self._make_machines(file, before)
        kept = {id(machine.link) for machine in after.values()}
        self._machines, self._unreadable = after, ""
        for machine in before.values():
            if machine.link is not None and id(machine.link) not in kept:
                machine.link.bmc.close()
        changes = _compare(before, after)
        LOG.info(
            "inventory %s: machines in use: %d, entries left out: %d; machines that came: %d, went: %d, changed: %d",
            *(self._path, sum(machine.link is not None for machine in after.values()), left_out),
            *(len(changes.came), len(changes.went), len(changes.altered)),
        )
        return changes

    def list_machines(self) -> Iterable[Machine]:
        """:raises BackendUnavailable: the inventory could never be read."""
        if self._unreadable:
            raise BackendUnavailable(None, self._unreadable)
        return self._machines.values()

    def get_machine(self, server: str) -> Machine:
        """:raises ServerNotFound: the inventory has none of that id.
        :raises BackendUnavailable: the inventory could never be read.
        """
        if self._unreadable:
            raise BackendUnavailable(server, self._unreadable)
        machine = self._machines.get(server)
        if machine is None:
            raise ServerNotFound(server, "the inventory of this agent has no such server")
        return machine

    def find_machine(self, server: str) -> Machine | None:
        return self._machines.get(server)

    def close(self) -> None:
        """Let go of all BMCs; calls that wait for one end at once."""
        for machine in self._machines.values():
            if machine.link is not None:
                machine.link.bmc.close()

    def _make_machines(self, file: InventoryFile, before: Mapping[str, Machine]) -> tuple[dict[str, Machine], int]:
        """Those that are listed, and how many entries are left out: of these, the ones without a usable uuid are not even listed."""
        machines: dict[str, Machine] = {}
        places: dict[str, int] = {}
        problems = list(file.problems)
        for entry in file.entries:
            machine = Machine(entry.server, entry.name, entry.project, entry.user)
            try:
                link = self._make_link(entry, before.get(entry.server), places)
            except WrongValue as wrong:
                problems.append(Problem(entry.number, str(wrong), entry.server, entry.name, entry.project, entry.user))
                continue
            machines[entry.server] = replace(machine, link=link)
        for problem in sorted(problems, key=lambda problem: problem.number):
            LOG.error("inventory %s: %s", self._path, problem.describe())
            if problem.server is not None:
                machines[problem.server] = Machine(
                    *(problem.server, problem.name or problem.server, problem.project, problem.user),
                    problem=f"its entry in the agent's inventory cannot be used: {problem.reason}",
                )
        return machines, len(problems)

    def _make_link(self, entry: Entry, former: Machine | None, places: dict[str, int]) -> Link:
        """The former one where nothing about it has changed.

        :raises WrongValue: the entry cannot be used.
        """
        try:
            protocol = self._protocols.get(entry.driver)
        except ProtocolNotLoaded as error:
            raise WrongValue("driver", str(error)) from error
        directory = self._path.parent
        target = Target(
            server=entry.server,
            address=entry.address,
            port=entry.port or protocol.default_port,
            username=entry.username or "",
            password=read_secret(entry, directory),
            privilege=entry.privilege,
            cipher=entry.cipher,
            ca_file=None if entry.ca_file is None else directory / entry.ca_file,
            verify_tls=entry.verify_tls,
            system=entry.system,
        )
        if former is not None and former.link is not None and (former.link.protocol, former.link.target) == (protocol, target):
            link = former.link
        else:
            try:
                link = Link(protocol, target, protocol.connect(target))
            except ValueError as error:
                raise WrongValue("the entry", str(error)) from error
        taken_by = places.setdefault(link.place, entry.number)
        if taken_by != entry.number:
            if former is None or link is not former.link:
                link.bmc.close()
            raise WrongValue("address", f"entry {taken_by} has the same one (and port and system); one machine has one entry")
        return link


def _compare(before: Mapping[str, Machine], after: Mapping[str, Machine]) -> Changes:
    return Changes(
        came=frozenset(after.keys() - before.keys()),
        went=frozenset(before.keys() - after.keys()),
        altered=frozenset(server for server in before.keys() & after.keys() if before[server] != after[server]),
    )
