"""The faults: what is done to which part, and how it is undone. Each is begun and ended by :class:`Striker` at its time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tests.chaos.history import History
from tests.chaos.hypervisor import Mood, set_mood
from tests.chaos.schedule import Draw
from tests.chaos.system import ChaosSystem, Host

GUEST = "guest:"
"""How the names of guests begin that are parts."""


@dataclass
class Scene:
    """What a fault works on."""

    system: ChaosSystem
    history: History
    seed: str
    notes: dict[str, str] = field(default_factory=dict)

    def get_host(self, name: str) -> Host:
        return self.system.hosts[name]

    def set_mood(self, host: str, mood: Mood, *, chance: float = 1.0, seconds: float = 0.0) -> None:
        hypervisor = self.get_host(host).hypervisor
        assert hypervisor is not None, "only hosts with a fake one are targets"
        set_mood(hypervisor, mood, chance=chance, seconds=seconds)

    def set_clock(self, host: str, offset: float) -> None:
        self.system.hosting.set_clock(self.system.stack, host, offset)


class Fault(ABC):
    """One kind of fault.

    ``name`` is its row in the report. :meth:`begin` and :meth:`end` return when what they say is so; between them it lasts. What they
    raise is written down as a fault that failed, and ends the run's claim to have proven anything.
    """

    name: ClassVar[str]
    duration: ClassVar[tuple[float, float]] = (2.0, 6.0)
    weight: ClassVar[float] = 1.0

    @abstractmethod
    def list_targets(self, system: ChaosSystem) -> Sequence[str]: ...

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        """The parts that no other fault may touch meanwhile."""
        return frozenset({target})

    def list_parts(self, target: str) -> frozenset[str]:
        """The parts that cannot work while it lasts."""
        return frozenset({target})

    @abstractmethod
    def begin(self, scene: Scene, target: str) -> None: ...

    @abstractmethod
    def end(self, scene: Scene, target: str) -> None: ...


class _OnParts(Fault):
    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return list(system.parts)


class Kill(_OnParts):
    """kill -9, and a start later."""

    name = "kill -9"
    duration = (0.5, 5.0)
    weight = 3

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.parts[target].kill()

    def end(self, scene: Scene, target: str) -> None:
        scene.system.parts[target].start()


class Freeze(_OnParts):
    """SIGSTOP, and SIGCONT later."""

    name = "SIGSTOP"
    duration = (1.0, 9.0)
    weight = 3

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.parts[target].freeze()

    def end(self, scene: Scene, target: str) -> None:
        scene.system.parts[target].thaw()


class Restart(_OnParts):
    """An orderly stop, and a start at once."""

    name = "orderly restart"
    duration = (0.1, 0.2)

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.stop_part(target)

    def end(self, scene: Scene, target: str) -> None:
        scene.system.parts[target].start()


class _OnBroker(Fault):
    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return ["broker"]

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset(name for name in system.parts if name.startswith("broker"))


class MemoryAlarm(_OnBroker):
    name = "memory alarm"

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.stack.broker.set_memory_alarm(True)

    def end(self, scene: Scene, target: str) -> None:
        scene.system.stack.broker.set_memory_alarm(False)


class DiskAlarm(_OnBroker):
    name = "disk alarm"

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.stack.broker.ctl("set_disk_free_limit", "1000000GB")

    def end(self, scene: Scene, target: str) -> None:
        scene.system.stack.broker.ctl("set_disk_free_limit", "100MB")


class Partition(Fault):
    """Nothing passes, and nobody is told."""

    name = "partition"
    duration = (2.0, 25.0)
    weight = 2

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return list(system.links)

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({target})

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset({target.partition("–")[0]})

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.links[target].cut()

    def end(self, scene: Scene, target: str) -> None:
        scene.system.links[target].heal()


class OneWay(Partition):
    """What is sent to the broker arrives, and no answer comes."""

    name = "partition, one way"

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.links[target].cut(to_server=False)


class Refusal(Partition):
    """Connections are reset, new ones refused."""

    name = "connections refused"
    duration = (1.0, 6.0)

    def begin(self, scene: Scene, target: str) -> None:
        scene.system.links[target].refuse()


class _OnHosts(Fault):
    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return list(system.hosts)

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({f"agent:{target}"})

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset({f"agent:{target}"})


class _BadMood(_OnHosts):
    """The driver's calls go badly, and often beside another fault: it needs the host's mood alone."""

    mood: ClassVar[Mood]
    chance: ClassVar[float] = 0.5
    seconds: ClassVar[float] = 0.0

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return [host.name for host in system.hosts.values() if host.hypervisor is not None]

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({f"mood:{target}"})

    def begin(self, scene: Scene, target: str) -> None:
        scene.set_mood(target, self.mood, chance=self.chance, seconds=self.seconds)

    def end(self, scene: Scene, target: str) -> None:
        scene.set_mood(target, Mood.WELL)


class SlowDriver(_BadMood):
    name = "slow driver"
    mood = Mood.SLOW
    chance = 0.7
    seconds = 1.0


class HangingDriver(_BadMood):
    name = "hanging driver"
    mood = Mood.HANGING
    duration = (3.0, 15.0)


class RaisingDriver(_BadMood):
    name = "raising driver"
    mood = Mood.RAISING


class UnavailableHypervisor(_BadMood):
    name = "hypervisor unavailable"
    mood = Mood.UNAVAILABLE


class LostAnswers(_BadMood):
    name = "driver's answers lost"
    mood = Mood.LOSING_ANSWERS


class ClockAhead(_OnHosts):
    """The host's clock is set forward while its agent runs, and back."""

    name = "clock ahead"
    offset: ClassVar[float] = 7.0

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({f"clock:{target}"})

    def begin(self, scene: Scene, target: str) -> None:
        scene.set_clock(target, self.offset)

    def end(self, scene: Scene, target: str) -> None:
        scene.set_clock(target, 0.0)


class ClockBehind(ClockAhead):
    name = "clock behind"
    offset = -7.0


class ClockSlightlyOff(ClockAhead):
    """Within what is allowed."""

    name = "clock 1.5 s behind"
    offset = -1.5
    duration = (5.0, 15.0)


def describe_draws(faults: Mapping[str, Fault], system: ChaosSystem, words: Sequence[str] = ()) -> dict[str, Draw]:
    """What the schedule is drawn from.

    :param words: only targets whose name has one of them, where there are any
    """
    return {
        name: Draw(
            targets,
            fault.duration,
            fault.weight,
            {target: fault.list_needed(system, target) for target in targets},
        )
        for name, fault in faults.items()
        if (targets := [target for target in fault.list_targets(system) if not words or any(word in target for word in words)])
    }


def list_hosts(fault: Fault, system: ChaosSystem, target: str) -> list[str]:
    """The hosts whose actions it keeps back: all, where it is neither one agent nor one guest."""
    if target.startswith(GUEST):
        return []
    agents = {part.removeprefix("agent:") for part in fault.list_parts(target) if part.startswith("agent:")}
    return sorted(agents) if agents else sorted(system.hosts)
