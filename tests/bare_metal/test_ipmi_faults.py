"""An NMI over a network that loses, repeats and damages: at most one is given, and nobody is told a success that was not answered.

The BMCs are `ipmi_sim`'s, which count the NMIs that they gave.
"""

import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.errors import Code
from compute_agent.drivers.bmc.protocol import Secret, Target
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown, ServerNotRunning
from compute_agent.drivers.ipmi.bmc import IpmiBmc
from compute_agent.drivers.ipmi.sessions import Sessions
from devstack.ipmi_sim import ADMINISTRATOR, USER, BmcUser, IpmiSim, SimulatedBmc
from devstack.services import PATIENCE, wait_until
from tests.conformance.libvirt_host import require_real_parts
from tests.udp_relay import LOST, Delivery, Direction, Passing, Rule, UdpRelay, closed_port, pass_on, relaying

RUNS = 200
AT_A_TIME = 10
LIMIT = 0.5
"""Seconds for an injection whose answers are lost."""
RESEND_AFTER = 0.05
LATE = 15.0
"""What a caller may come back after its limit, on a machine that boots guests beside. Without a limit it would wait for good."""
FAULT_LIMIT = 2.0 * PATIENCE
"""For an injection into a BMC that says nothing, or nothing that can be read; one that says what is wrong says it at once."""
GARBAGE_LIMIT = 3.0 * PATIENCE
"""For an injection whose answer is garbage."""
GARBAGE_SEEDS = 40
_TOO_LATE = "too busy to read"
"""Who asked is let go at the limit, whether or not the agent has come to read what came; on a busy machine it sometimes has not."""
PAUSE = 0.005
"""Between two injections into a faulty BMC that refuses at once."""
OTHERS = 99
ANSWERS_OF_AN_INJECTION = 9
"""Four of the login and one of its refused first cipher, the privilege level, the power, the NMI, and the logout's."""

PLAIN_RAW_COMMAND = """
import os, sys
from pyghmi.ipmi.private.session import Session
session = Session("127.0.0.1", os.environb[b"BMC_USER"], os.environb[b"BMC_PASSWORD"], port=int(sys.argv[1]))
print(session.raw_command(netfn=0, command=2, data=[4])["code"])
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpmiSim]:
    require_real_parts()
    simulator = IpmiSim(tmp_path_factory.mktemp("bmcs"), OTHERS + 1)
    simulator.start()
    yield simulator
    simulator.stop()


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    sessions = Sessions(SystemClock(), resend_after=RESEND_AFTER)
    yield sessions
    sessions.close()


def reach(bmc: SimulatedBmc, sessions: Sessions, *, port: int | None = None, user: BmcUser = ADMINISTRATOR, **changes: str) -> IpmiBmc:
    described = {"password": user.password, "privilege": user.privilege} | changes
    secret = Secret(described["password"].encode())
    target = Target("server", bmc.address, port or bmc.port, user.name, secret, privilege=described["privilege"])
    return IpmiBmc(target, sessions, SystemClock(), countdown=300.0)


@dataclass
class Injection:
    """What came of one injection, and what really happened to the machine."""

    error: DriverError | None
    seconds: float
    nmis: int
    was_answer_passed: bool


@dataclass
class Watched:
    """A rule on the way to ``bmc``, of which is known whether it let an answer pass after the BMC gave an NMI.

    What the packets say is encrypted, and before the answer to the NMI may come that to an earlier request which was late or sent twice.
    """

    bmc: SimulatedBmc
    rule: Rule
    nmis_before: int = field(init=False)
    was_answer_passed: bool = False

    def __post_init__(self) -> None:
        self.nmis_before = self.bmc.count_nmis()

    def __call__(self, packet: Passing) -> Sequence[Delivery]:
        deliveries = self.rule(packet)
        if packet.direction is Direction.ANSWER and self.bmc.count_nmis() > self.nmis_before:
            self.was_answer_passed |= any(delivery.content == packet.content for delivery in deliveries)
        return deliveries


def inject_through(relay: UdpRelay, rule: Rule, bmc: SimulatedBmc, sessions: Sessions, limit: float = LIMIT) -> Injection:
    watched = Watched(bmc, rule)
    relay.set_rule(watched)
    began, error = time.monotonic(), None
    try:
        reach(bmc, sessions, port=relay.port).inject_nmi(limit)
    except DriverError as refusal:
        error = refusal
    seconds = time.monotonic() - began
    relay.set_rule(lambda packet: LOST)
    wait_until(bmc.answers, LATE, "the BMC has done what was on its way to it")
    return Injection(error, seconds, bmc.count_nmis() - watched.nmis_before, watched.was_answer_passed)


def losing(first: int, count: int) -> Rule:
    """Answers first to first + count - 1 are lost."""
    return lambda packet: LOST if packet.direction is Direction.ANSWER and first <= packet.number < first + count else pass_on(packet)


def in_disorder(seed: int) -> Rule:
    """Any packet may be lost or come late, and answers come twice. Requests do not: ipmi_sim carries out a packet that the network repeats,
    in spite of its session's sequence number, and nobody who sends can help that."""
    dice = random.Random(seed)

    def rule(packet: Passing) -> Sequence[Delivery]:
        fate = dice.random()
        if fate < 0.1:
            return LOST
        times = 2 if fate < 0.3 and packet.direction is Direction.ANSWER else 1
        return pass_on(packet, times, delay=dice.uniform(0, 2 * RESEND_AFTER) if fate > 0.8 else 0.0)

    return rule


def make_rules() -> list[Rule]:
    """One answer lost, two, or all that follow, from each point of the exchange on; and disorder of all kinds."""
    losses = [losing(first, count) for first in range(ANSWERS_OF_AN_INJECTION) for count in (1, 2, 1000) for _ in range(4)]
    return losses + [in_disorder(seed) for seed in range(RUNS - len(losses))]


def test_plain_pyghmi_gives_several_nmis_when_answers_are_lost(simulator: IpmiSim) -> None:
    """The fault that this driver is built against: otherwise the next test could pass because the relay loses nothing."""
    bmc = simulator.bmc
    before = bmc.count_nmis()

    def lose_the_first_answers_to_nmis(packet: Passing) -> Sequence[Delivery]:
        given = bmc.count_nmis() - before
        return LOST if packet.direction is Direction.ANSWER and 0 < given < 3 else pass_on(packet)

    with relaying(bmc.port) as relay:
        relay.set_rule(lose_the_first_answers_to_nmis)
        environment = {**os.environ, "BMC_USER": ADMINISTRATOR.name, "BMC_PASSWORD": ADMINISTRATOR.password}
        argv = [sys.executable, "-c", PLAIN_RAW_COMMAND, str(relay.port)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
        assert relay.came[Direction.ANSWER] - relay.went[Direction.ANSWER] == 2
    assert done.stdout.strip() == "0", done.stderr
    assert bmc.count_nmis() - before == 3


def test_no_loss_anywhere_gives_more_than_one_nmi_or_a_success_without_an_answer(simulator: IpmiSim, sessions: Sessions) -> None:
    rules = make_rules()
    assert len(rules) == RUNS

    def run_share(number: int) -> list[Injection]:
        bmc = simulator.bmcs[number]
        with relaying(bmc.port) as relay:
            return [inject_through(relay, rule, bmc, sessions) for rule in rules[number::AT_A_TIME]]

    with ThreadPoolExecutor(AT_A_TIME) as callers:
        injections = [injection for share in callers.map(run_share, range(AT_A_TIME)) for injection in share]

    for injection in injections:
        assert injection.nmis <= 1
        assert injection.seconds < LIMIT + LATE
        if injection.error is None:
            assert (injection.nmis, injection.was_answer_passed) == (1, True)
        elif isinstance(injection.error, OutcomeUnknown):
            assert not injection.was_answer_passed or injection.seconds >= LIMIT
        else:
            assert isinstance(injection.error, BackendUnavailable)
            assert injection.nmis == 0
    endings = Counter("succeeded" if injection.error is None else injection.error.code for injection in injections)
    assert min(endings[ending] for ending in ("succeeded", Code.ANSWER_LOST, Code.BACKEND_UNAVAILABLE)) >= 10, endings
    assert endings.total() == sum(endings[ending] for ending in ("succeeded", Code.ANSWER_LOST, Code.BACKEND_UNAVAILABLE))
    assert sum(injection.nmis for injection in injections if isinstance(injection.error, OutcomeUnknown)) >= 10


def damaging(seed: int, starts: Callable[[], bool]) -> Rule:
    """Answers are cut off, altered, or nonsense as soon as it ``starts``."""
    dice = random.Random(seed)

    def rule(packet: Passing) -> Sequence[Delivery]:
        if packet.direction is Direction.REQUEST or not starts():
            return pass_on(packet)
        flipped = bytearray(packet.content)
        for _ in range(dice.randrange(1, 8)):
            flipped[dice.randrange(4, len(flipped))] ^= dice.randrange(1, 256)
        cut = packet.content[: dice.randrange(len(packet.content))]
        return [Delivery(dice.choice([bytes(flipped), cut, dice.randbytes(dice.randrange(80)), packet.content[:4] + dice.randbytes(60)]))]

    return rule


def test_garbage_is_never_taken_for_an_answer(simulator: IpmiSim, sessions: Sessions) -> None:
    """Each injection waits for its whole limit: all do so at the same time."""

    def run(seed: int) -> None:
        bmc = simulator.bmcs[seed]
        with relaying(bmc.port) as relay:
            login = inject_through(relay, damaging(seed, lambda: True), bmc, sessions, 0.2)
            assert isinstance(login.error, BackendUnavailable)
            assert (login.nmis, login.seconds < 0.2 + LATE) == (0, True)
            before = bmc.count_nmis()
            damaged = damaging(seed, lambda: bmc.count_nmis() > before)
            answer = inject_through(relay, damaged, bmc, sessions, GARBAGE_LIMIT)
            assert isinstance(answer.error, OutcomeUnknown)
            assert any(words in answer.error.reason for words in ("garbage", _TOO_LATE)), answer.error.reason
            assert (answer.nmis, answer.seconds < GARBAGE_LIMIT + LATE) == (1, True)

    with ThreadPoolExecutor(GARBAGE_SEEDS) as callers:
        assert len(list(callers.map(run, range(GARBAGE_SEEDS)))) == GARBAGE_SEEDS


@dataclass
class Fault:
    """A BMC with which something is wrong, and what an injection there must end with. ``nmis``: how many may have been given.

    ``limit``: of the injection; a long one where the fault is told at once, so that a machine that stands still tells nothing else.
    """

    bmc: IpmiBmc
    error: type[DriverError]
    text: str
    code: Code | None = None
    count_nmis: Callable[[], int] = lambda: 0
    nmis: int = 0
    limit: float = LATE


@contextmanager
def machine_off(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    bmc.set_power(False)
    try:
        yield Fault(reach(bmc, sessions), ServerNotRunning, "switched off", count_nmis=bmc.count_nmis)
    finally:
        bmc.set_power(True)


@contextmanager
def wrong_password(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    yield Fault(reach(bmc, sessions, password="mistyped"), BackendUnavailable, "refuses the password", Code.FORBIDDEN, bmc.count_nmis)


@contextmanager
def unknown_user(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    user = BmcUser("nobody", ADMINISTRATOR.password, "administrator")
    yield Fault(reach(bmc, sessions, user=user), BackendUnavailable, "knows no such user", Code.FORBIDDEN, bmc.count_nmis)


@contextmanager
def user_without_privilege(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    yield Fault(
        reach(bmc, sessions, user=USER), BackendUnavailable, "may not send the diagnostic interrupt", Code.FORBIDDEN, bmc.count_nmis
    )


@contextmanager
def silent_port(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        text = "no answer came from the BMC at 127.0.0.1:"
        yield Fault(reach(bmc, sessions, port=silent.getsockname()[1]), BackendUnavailable, text, limit=FAULT_LIMIT)


@contextmanager
def nobody_listening(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    with closed_port() as port:
        yield Fault(reach(bmc, sessions, port=port), BackendUnavailable, "nothing listens where the BMC at 127.0.0.1:")


POWER_ANSWER = 6


@contextmanager
def rebooting(sessions: Sessions, directory: Path, *, nmis: int, when: Callable[[SimulatedBmc, Passing], bool]) -> Iterator[Fault]:
    """A BMC that is killed ``when`` it answers, and comes back. Its last answer passes if it came before the NMI, and only when the request
    for that has come does it come back."""
    simulator = IpmiSim(directory)
    simulator.start()
    reboot = threading.Thread(target=simulator.start)

    def die(packet: Passing) -> Sequence[Delivery]:
        if reboot.ident is None and not simulator.is_running:
            reboot.start()
        elif packet.direction is Direction.ANSWER and reboot.ident is None and when(simulator.bmc, packet):
            simulator.kill()
            if nmis:
                reboot.start()
                return LOST
        return pass_on(packet)

    try:
        with relaying(simulator.bmc.port) as relay:
            relay.set_rule(die)
            bmc = reach(simulator.bmc, sessions, port=relay.port)
            text, count = "nobody knows whether it did: no answer came", simulator.bmc.count_nmis
            yield Fault(bmc, OutcomeUnknown, text, count_nmis=count, nmis=nmis, limit=FAULT_LIMIT)
        reboot.join(20)
        assert simulator.is_running
    finally:
        if reboot.ident is not None:
            reboot.join(20)
        simulator.stop()


@contextmanager
def rebooting_before_the_nmi(_: SimulatedBmc, __: Sessions, directory: Path) -> Iterator[Fault]:
    """Over sessions that send nothing again: its answers are counted, and one to a request that was repeated would be one too many."""
    with (
        closing(Sessions(SystemClock(), resend_after=10 * FAULT_LIMIT)) as sessions,
        rebooting(sessions, directory, nmis=0, when=lambda bmc, packet: packet.number == POWER_ANSWER) as fault,
    ):
        yield fault


@contextmanager
def rebooting_after_the_nmi(_: SimulatedBmc, sessions: Sessions, directory: Path) -> Iterator[Fault]:
    with rebooting(sessions, directory, nmis=1, when=lambda bmc, packet: bmc.count_nmis() > 0) as fault:
        yield fault


@contextmanager
def garbage_answers(bmc: SimulatedBmc, sessions: Sessions, _: Path) -> Iterator[Fault]:
    with relaying(bmc.port) as relay:
        relay.set_rule(lambda packet: [Delivery(os.urandom(60))] * 3 if packet.direction is Direction.ANSWER else pass_on(packet))
        text, count = "packets that were garbage", bmc.count_nmis
        yield Fault(reach(bmc, sessions, port=relay.port), BackendUnavailable, text, count_nmis=count, limit=FAULT_LIMIT)


def look_at_all(bmcs: Sequence[IpmiBmc], limit: float) -> list[float]:
    """Seconds that each reading took, of as many at a time as an agent's poller has."""

    def look(bmc: IpmiBmc) -> float:
        began = time.monotonic()
        bmc.read_state(limit)
        return time.monotonic() - began

    with ThreadPoolExecutor(8) as pollers:
        return list(pollers.map(look, bmcs))


@pytest.mark.parametrize(
    "make_fault",
    [
        machine_off,
        wrong_password,
        unknown_user,
        user_without_privilege,
        silent_port,
        nobody_listening,
        rebooting_before_the_nmi,
        rebooting_after_the_nmi,
        garbage_answers,
    ],
)
def test_whatever_is_wrong_with_one_bmc_is_told_in_time_and_delays_no_other(
    make_fault: Callable[[SimulatedBmc, Sessions, Path], AbstractContextManager[Fault]],
    simulator: IpmiSim,
    sessions: Sessions,
    tmp_path: Path,
) -> None:
    others = [reach(bmc, sessions) for bmc in simulator.bmcs[1:]]
    assert len(others) == OTHERS
    alone = look_at_all(others, LATE)
    with make_fault(simulator.bmc, sessions, tmp_path) as fault, ThreadPoolExecutor(1) as callers:
        before = fault.count_nmis()
        looked = threading.Event()

        def inject() -> Iterator[tuple[DriverError, float]]:
            """For as long as the others are looked at; what may have given an NMI is not repeated."""
            while True:
                began = time.monotonic()
                with pytest.raises(fault.error) as refused:
                    fault.bmc.inject_nmi(fault.limit)
                yield refused.value, time.monotonic() - began
                if fault.error is OutcomeUnknown or looked.wait(PAUSE):
                    return

        injections = callers.submit(lambda: list(inject()))
        beside = look_at_all(others, LATE)
        looked.set()
        for error, seconds in injections.result():
            assert any(words in error.reason for words in (fault.text, _TOO_LATE)), error.reason
            assert error.code is (fault.code or fault.error.code)
            assert ADMINISTRATOR.password not in error.reason
            assert seconds < fault.limit + LATE
        assert fault.count_nmis() - before == fault.nmis
    # Who had to wait for the faulty one would wait for much of a limit; the machine that runs the test is not always as fast.
    assert statistics.median(beside) < max(4 * statistics.median(alone), FAULT_LIMIT / 5)
