"""What laboratories over the fake driver share: what happens to its servers, and the signals that these count."""

from compute_agent.drivers.fake import FakeHypervisor


class FakeMachines:
    """A part of a laboratory; ``_hypervisor`` reports at once or never."""

    _hypervisor: FakeHypervisor

    def fire_watchdog(self, server: str) -> None:
        self._hypervisor.fire_watchdog(server)

    def count_signals(self, server: str) -> int:
        return self._hypervisor.count_signals(server)

    def wait_for_signals(self, server: str, count: int) -> None:
        assert self.count_signals(server) >= count

    def start(self, server: str) -> None:
        self._hypervisor.start(server)

    def stop(self, server: str) -> None:
        self._hypervisor.stop(server)

    def reboot(self, server: str) -> None:
        self._hypervisor.reboot(server)

    def remove(self, server: str) -> None:
        self._hypervisor.remove(server)
