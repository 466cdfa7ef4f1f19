"""What of an inventory's entry IPMI can do, said before anything is sent."""

import pytest

from compute_agent.drivers.bmc.protocol import Secret, Target
from compute_agent.drivers.ipmi.target import Access, check_target, resolve


def test_by_default_an_administrator_logs_in_with_the_best_cipher_that_the_bmc_takes() -> None:
    secret = Secret(b"pw")
    assert check_target(Target("server", "10.0.0.1", 623, "root", secret)) == Access(b"root", secret, 4, may_degrade=True, cipher=None)


@pytest.mark.parametrize(("name", "level"), [("callback", 1), ("user", 2), ("operator", 3), ("administrator", 4)])
def test_a_privilege_level_by_name_is_asked_for_and_no_lower_one(name: str, level: int) -> None:
    access = check_target(Target("server", "10.0.0.1", 623, privilege=name))
    assert (access.level, access.may_degrade) == (level, False)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"privilege": "root"}, "give one of callback, user, operator, administrator"),
        ({"cipher": 0}, r"give one of 3 \(SHA-1, AES-128\), 17 \(SHA-256, AES-128\), or none"),
        ({"system": "1"}, "one machine"),
        ({"username": "x" * 17}, "16 bytes"),
        ({"password": Secret(b"x" * 21)}, "20 bytes"),
    ],
)
def test_what_ipmi_cannot_do_is_refused_with_what_is_possible(changes: dict[str, object], text: str) -> None:
    described = {"server": "server", "address": "10.0.0.1", "port": 623} | changes
    with pytest.raises(ValueError, match=text) as refused:
        check_target(Target(**described))  # type: ignore[arg-type]
    assert "xxx" not in str(refused.value)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_taken_without_asking_anybody(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)
    assert resolve(Target("server", address, 623)).address == (address, 623)
