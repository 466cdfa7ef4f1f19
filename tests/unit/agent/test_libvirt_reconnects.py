"""Which servers' events may not have begun yet, as libvirt's control interface says it."""

import libvirt

from compute_agent.drivers.libvirt.reconnects import list_occupied
from tests.unit.agent.libvirt_fakes import make_error


class FakeDomain:
    def __init__(self, name: str, control: int | Exception) -> None:
        self._name = name
        self._control = control

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._name

    def controlInfo(self) -> list[int]:
        if isinstance(self._control, Exception):
            raise self._control
        return [self._control, 0, 0]


class FakeLink:
    def __init__(self, domains: list[FakeDomain] | Exception) -> None:
        self._domains = domains

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        assert flags == libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        if isinstance(self._domains, Exception):
            raise self._domains
        return self._domains


def test_those_that_libvirt_is_occupied_with_may_not_have_been_found_again() -> None:
    domains = [
        FakeDomain("found", libvirt.VIR_DOMAIN_CONTROL_OK),
        FakeDomain("is being opened", libvirt.VIR_DOMAIN_CONTROL_OCCUPIED),
        FakeDomain("is being read", libvirt.VIR_DOMAIN_CONTROL_JOB),
        FakeDomain("has no QEMU", libvirt.VIR_DOMAIN_CONTROL_ERROR),
        FakeDomain("gone", make_error(libvirt.VIR_ERR_NO_DOMAIN)),
    ]
    assert list_occupied(FakeLink(domains)) == {"is being opened", "is being read"}


def test_a_connection_that_does_not_answer_is_left_to_who_looks_after_it() -> None:
    assert list_occupied(FakeLink(make_error(libvirt.VIR_ERR_RPC))) == frozenset()
