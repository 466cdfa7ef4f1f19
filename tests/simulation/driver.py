"""The driver through which an agent speaks to its host's simulated hypervisor."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from compute_agent.contract.models import PowerState
from compute_agent.drivers import base, errors
from compute_agent.drivers.models import CollectedDiagnostics, DriverEvent, DriverServer, FoundDump
from tests.simulation.hypervisor import CALL_BOUND, Call, Hypervisor
from tests.simulation.kernel import Event, Process


def connect(hypervisor: Hypervisor, process: Process, find_action: Callable[[str], str], life: str) -> base.Driver:
    """A driver for one life of the agent.

    :param find_action: which action the agent has ``started`` for a server, to know for whom an NMI is
    """
    return base.Driver(
        name="simulated",
        servers=_Servers(hypervisor, process),
        call_bound=CALL_BOUND,
        nmi=_Nmi(hypervisor, process, find_action, life),
        diagnostics=_Diagnostics(hypervisor, process),
        expiry_dumps=_ExpiryDumps(hypervisor, process),
        events=_Events(hypervisor, process),
    )


class _Servers(base.Servers):
    def __init__(self, hypervisor: Hypervisor, process: Process) -> None:
        self._hypervisor = hypervisor
        self._process = process

    def list_servers(self) -> Sequence[DriverServer]:
        self.check_reachable(None)
        return self._hypervisor.list_described()

    def get_server(self, server: str) -> DriverServer:
        self.check_reachable(server)
        described = self._hypervisor.find_described(server)
        if described is None:
            raise errors.ServerNotFound(server, "no such guest")
        if described.unread:
            raise errors.BackendUnavailable(server, "its controller does not answer")
        return described

    def check_reachable(self, server: str | None) -> None:
        """Takes as long as the daemon does.

        :raises BackendUnavailable: it is away.
        """
        self._process.check()
        if self._hypervisor.kernel.get_process() is not None:
            if self._hypervisor.draw_hang():
                self._hypervisor.kernel.sleep(CALL_BOUND)
                raise errors.BackendUnavailable(server, "it does not answer")
            self._hypervisor.kernel.sleep(self._hypervisor.draw_reading_time())
        if not self._hypervisor.up:
            raise errors.BackendUnavailable(server, "the daemon is away")


class _ExpiryDumps(base.ExpiryDumps):
    def __init__(self, hypervisor: Hypervisor, process: Process) -> None:
        self._hypervisor = hypervisor
        self._servers = _Servers(hypervisor, process)

    def find_expiry_dump(self, server: str, since: datetime, until: datetime | None = None) -> FoundDump | None:
        self._servers.check_reachable(server)
        guest = self._hypervisor.guests.get(server)
        dumps = [] if guest is None else guest.dumps
        found = [dump for began_at, dump in dumps if since <= began_at and (until is None or began_at < until)]
        return found[-1] if found else None


class _Diagnostics(base.DiagnosticsSource):
    def __init__(self, hypervisor: Hypervisor, process: Process) -> None:
        self._hypervisor = hypervisor
        self._servers = _Servers(hypervisor, process)

    def collect_diagnostics(self, server: str) -> CollectedDiagnostics:
        return self._read(self._servers.get_server(server))

    def sample_servers(self) -> Sequence[CollectedDiagnostics]:
        return [self._read(seen) for seen in self._servers.list_servers() if seen.power_state is PowerState.RUNNING]

    def _read(self, seen: DriverServer) -> CollectedDiagnostics:
        clock = self._hypervisor.clock
        return CollectedDiagnostics(
            server=seen.id,
            power_state=seen.power_state,
            collected_at=clock.now(),
            monotonic=clock.monotonic(),
            driver_word="libvirt",
            started_at=seen.started_at,
        )


class _Nmi(base.Nmi):
    def __init__(self, hypervisor: Hypervisor, process: Process, find_action: Callable[[str], str], life: str) -> None:
        self._hypervisor = hypervisor
        self._process = process
        self._find_action = find_action
        self._life = life

    def inject_nmi(self, server: str) -> None:
        self._process.check()
        kernel = self._hypervisor.kernel
        answered = Event(kernel)
        answers: list[Exception | None] = []

        def finish(answer: Exception | None) -> None:
            answers.append(answer)
            answered.set()

        call = Call(self._find_action(server), server, self._life, self._hypervisor.host, kernel.time, self._hypervisor.clock.offset)
        kernel.note(self._hypervisor.host, f"NMI call begins for {call.action}")
        self._hypervisor.begin_call(call, finish)
        while not answers:
            answered.wait()
        if answers[0] is not None:
            raise answers[0]


class _Events(base.Events):
    def __init__(self, hypervisor: Hypervisor, process: Process) -> None:
        self._hypervisor = hypervisor
        self._process = process

    def subscribe(self, listener: Callable[[DriverEvent], None], cursors: Mapping[str, str]) -> None:
        self._hypervisor.listen(self._process, listener, cursors)
