"""What the servers of a system under attack run on: a fake hypervisor for each of several hosts, or one host with real guests."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.models import ActionKind
from compute_agent.drivers.fake_server import NmiEffect
from devstack.checks import ROOT
from devstack.deployment import AgentProgram, AgentSpec, GuestSpec
from devstack.stack import Stack
from devstack.stack_config import Options, merge
from tests.chaos.history import History, What, read_lines
from tests.chaos.hypervisor import Machine, list_ids, set_clock, write_machines

SKEW = 2.0


class Part(Protocol):
    """A process of the system, or the processes of a server."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> object: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class Hosting(ABC):
    """``holdoff`` and ``bound`` of a driver's call are in seconds, ``kinds`` says how often which action is asked for, and ``force_share``
    how many crash dumps are asked for in spite of a hold-off. ``counts_calls``: each NMI is known with the action that it was sent for."""

    holdoff: float
    bound: float
    kinds: ClassVar[Mapping[ActionKind, int]]
    force_share: float
    counts_calls: bool
    guests: Sequence[GuestSpec] = ()

    @abstractmethod
    def list_agents(self, directory: Path) -> list[AgentSpec]: ...

    @abstractmethod
    def list_servers(self, host: str) -> dict[str, str]:
        """Their ids, and whose each is; after :meth:`list_agents`."""

    @abstractmethod
    def get_agent_program(self, host: str) -> AgentProgram: ...

    @abstractmethod
    def make_agent_options(self, stack: Stack, host: str) -> Options:
        """All that an agent must be told of its driver."""

    @abstractmethod
    def find_hypervisor(self, host: str) -> Path | None:
        """The directory of a fake one."""

    @abstractmethod
    def start(self, stack: Stack) -> None:
        """Raises StepFailed."""

    @abstractmethod
    def list_parts(self, stack: Stack) -> dict[str, Part]:
        """Further ones that can be struck, by name."""

    @abstractmethod
    def begin(self, stack: Stack, history: History) -> None:
        """Everything runs; what follows is to be written down."""

    @abstractmethod
    def set_clock(self, stack: Stack, host: str, offset: float) -> None:
        """The host's clock is wrong by so many seconds from now on."""

    @abstractmethod
    def collect(self, history: History) -> None:
        """Write down what the servers themselves have counted; the agents have ended."""

    @abstractmethod
    def end(self) -> None:
        """Stop what :meth:`begin` has begun, if it has."""


class FakeHosts(Hosting):
    """Several hosts, each over a hypervisor whose state is on disk."""

    holdoff = 3.0
    """Short enough that the next crash dump of a server comes behind it, long enough that a second one often comes within."""
    bound = 3.0
    kinds: ClassVar[Mapping[ActionKind, int]] = {
        ActionKind.TRIGGER_CRASH_DUMP: 65,
        ActionKind.COLLECT_DIAGNOSTICS: 15,
        ActionKind.SET_WATCHDOG: 9,
        ActionKind.REMOVE_WATCHDOG: 8,
    }
    force_share = 0.03
    counts_calls = True
    projects = ("red", "green", "blue")
    _MACHINES = (NmiEffect.SURVIVE,) * 17 + (NmiEffect.CRASH_KERNEL,) * 6 + (NmiEffect.PANIC,) * 2
    """How the machines of a host take an NMI. Most of them stand it, so that nothing but a hold-off keeps the next action waiting."""

    def __init__(self, hosts: int, argv: Sequence[str]) -> None:
        self._names = [f"host-{number}" for number in range(1, hosts + 1)]
        self._argv = argv
        self._directory = Path()

    def list_agents(self, directory: Path) -> list[AgentSpec]:
        self._directory = directory
        return [AgentSpec(name, self.get_agent_program(name), self._make_options(name)) for name in self._names]

    def list_servers(self, host: str) -> dict[str, str]:
        machines = [Machine(self.projects[number % len(self.projects)], effect) for number, effect in enumerate(self._MACHINES)]
        directory = self.find_hypervisor(host)
        write_machines(directory, machines)
        return {server: machine.project for server, machine in zip(list_ids(directory, host, SystemClock()), machines, strict=True)}

    def get_agent_program(self, host: str) -> AgentProgram:
        return AgentProgram(self._argv, {"CHAOS_HOST": str(self.find_hypervisor(host)), "PYTHONPATH": str(ROOT)})

    def make_agent_options(self, stack: Stack, host: str) -> Options:
        return self._make_options(host)

    def find_hypervisor(self, host: str) -> Path:
        return self._directory / f"hypervisor-{host}"

    def start(self, stack: Stack) -> None:
        """They need no process of their own."""

    def list_parts(self, stack: Stack) -> dict[str, Part]:
        return {}

    def begin(self, stack: Stack, history: History) -> None:
        """They write down by themselves what is done to them."""

    def set_clock(self, stack: Stack, host: str, offset: float) -> None:
        set_clock(self.find_hypervisor(host), offset)

    def collect(self, history: History) -> None:
        for name in self._names:
            calls = self.find_hypervisor(name) / "calls.jsonl"
            for line in read_lines(calls) if calls.exists() else ():
                history.write(What(line.pop("what")), **line)

    def end(self) -> None:
        """Nothing was begun."""

    def _make_options(self, host: str) -> Options:
        return merge(make_agent_section("fake", self.holdoff), {"fake": {"seed": host, "call_bound": self.bound}})


def make_agent_section(driver: str, holdoff: float) -> Options:
    return {"agent": {"driver": driver, "crash_dump_holdoff": holdoff, "max_clock_skew": SKEW, "heartbeat_interval": 5}}
