"""Conversations with BMCs: what is sent how often, whose answer is believed, and how each ends in time."""

import gc
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyghmi.ipmi.private import session as pyghmi_session

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.errors import Code
from compute_agent.drivers.bmc.protocol import Secret, Target
from compute_agent.drivers.errors import BackendUnavailable, DriverError, OutcomeUnknown
from compute_agent.drivers.ipmi.dialog import Dialog
from compute_agent.drivers.ipmi.exchange import Conversation, NoAnswer, Request, Response
from compute_agent.drivers.ipmi.packets import PacketSession
from compute_agent.drivers.ipmi.sessions import Sessions
from devstack.services import wait_until
from tests.unit.agent.ipmi_responder import CLOSE_SESSION, PASSWORD, SET_PRIVILEGE, Responder, responding

ASK = Request(0x2C, 0x01)
STRIKE = Request(0x2C, 0x02, b"\x04", once=True)
HASTE = 0.02
"""Seconds after which ``hasty`` sends again; of others the requests can be counted, however slow the machine is."""
SHORT = 0.08
LATE = 10.0
"""What a caller may come back after its limit on a machine that is busy with other tests."""
LONG = 10.0
"""A limit that no test waits for."""


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    sessions = Sessions(SystemClock(), resend_after=LONG)
    yield sessions
    sessions.close()


class SkippingClock(SystemClock):
    skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def hasty(clock: SkippingClock) -> Iterator[Sessions]:
    """Looks at its clock so often that a limit can be skipped to."""
    sessions = Sessions(clock, resend_after=HASTE)
    yield sessions
    sessions.close()


@pytest.fixture
def bmc() -> Iterator[Responder]:
    with responding() as responder:
        yield responder


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield nobody.getsockname()[1]


def ask(*requests: Request) -> Conversation[list[Response]]:
    responses = []
    for request in requests or (ASK,):
        responses.append((yield request))
    return responses


def answer_only(*commands: tuple[int, int]) -> Callable[[int, int, bytes], Response | None]:
    return lambda netfn, command, content: Response(0) if (netfn, command) in commands else None


def seconds_of(call: Callable[[], object], expected: type[Exception]) -> tuple[float, str]:
    began = time.monotonic()
    with pytest.raises(expected) as raised:
        call()
    return time.monotonic() - began, str(raised.value)


def run_out(hasty: Sessions, clock: SkippingClock, bmc: Responder, conversation: Conversation[object], last: Request) -> object:
    """What comes of a conversation whose limit runs out after ``last`` was asked: its result, or the error."""
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(hasty.run, bmc.target(), conversation, LONG)
        bmc.wait_for(last.netfn, last.command)
        clock.skipped += LONG
        return call.exception() or call.result()


def test_a_conversation_is_one_login_its_requests_and_a_logout(sessions: Sessions, bmc: Responder) -> None:
    bmc.answer = lambda netfn, command, content: Response(0 if netfn == 6 else 0xC1, content[::-1])
    asked = [Request(0x2C, 1, b"abc"), Request(0x2C, 2, b""), Request(0x2C, 1, bytes(100))]
    assert sessions.run(bmc.target(), ask(*asked), LONG) == [Response(0xC1, request.data[::-1]) for request in asked]
    sessions.run(bmc.target(), ask(), LONG)
    bmc.wait_for(*CLOSE_SESSION, times=2)
    first_login = [SET_PRIVILEGE, (0x2C, 1), (0x2C, 2), (0x2C, 1), CLOSE_SESSION]
    assert [request[:2] for request in bmc.requests[:5]] == first_login
    assert bmc.steps == 2 * [0, 0x10, 0x12, 0x14]


def test_what_is_sent_once_is_on_the_wire_a_single_time_and_its_outcome_unknown_without_an_answer(
    hasty: Sessions, clock: SkippingClock, bmc: Responder
) -> None:
    """While it waits, what may be repeated is sent five times elsewhere."""
    bmc.answer = answer_only(SET_PRIVILEGE, (0x2C, 1))
    with responding() as other, ThreadPoolExecutor(1) as callers:
        call = callers.submit(hasty.run, bmc.target(), ask(ASK, STRIKE), LONG)
        bmc.wait_for(STRIKE.netfn, STRIKE.command)
        other.answer = lambda netfn, command, content: Response(0) if netfn == 6 or other.count(0x2C, 1) == 5 else None
        hasty.run(other.target(), ask(), LONG)
        clock.skipped += LONG
        error = call.exception()
    assert isinstance(error, OutcomeUnknown)
    assert f"no answer came from the BMC at 127.0.0.1:{bmc.port} within" in error.reason
    assert bmc.count(0x2C, 2) == 1


def test_a_conversation_is_told_that_no_answer_came_and_may_say_what_that_means(
    hasty: Sessions, clock: SkippingClock, bmc: Responder
) -> None:
    bmc.answer = answer_only(SET_PRIVILEGE)

    def conversation() -> Conversation[str]:
        try:
            yield ASK
        except NoAnswer as silence:
            return f"nothing: {silence}"
        return "something"

    assert str(run_out(hasty, clock, bmc, conversation(), ASK)).startswith("nothing: no answer came")


def test_a_request_that_may_be_repeated_is_until_it_is_answered(hasty: Sessions, bmc: Responder) -> None:
    bmc.answer = lambda netfn, command, content: Response(0) if netfn == 6 or bmc.count(0x2C, 1) >= 3 else None
    assert hasty.run(bmc.target(), ask(), LONG) == [Response(0)]
    assert bmc.count(0x2C, 1) >= 3


@pytest.mark.parametrize("lost", range(5))
def test_a_login_survives_the_loss_of_any_of_its_packets(lost: int, hasty: Sessions, bmc: Responder) -> None:
    packets = iter(range(1000))
    bmc.alter = lambda packet: [] if next(packets) == lost else [packet]
    assert hasty.run(bmc.target(), ask(), LONG) == [Response(0)]


def test_an_answer_that_comes_twice_or_late_is_not_taken_for_that_of_the_next_request(sessions: Sessions, bmc: Responder) -> None:
    """The same command each time: only numbers tell the answers apart."""
    sent: list[bytes] = []
    numbers = iter(range(1000))
    bmc.answer = lambda netfn, command, content: Response(0, b"" if netfn == 6 else bytes([next(numbers)]))

    def repeat_all_earlier(packet: bytes) -> list[bytes]:
        sent.append(packet)
        return [*sent, packet]

    bmc.alter = repeat_all_earlier
    assert sessions.run(bmc.target(), ask(*[ASK] * 20), LONG) == [Response(0, bytes([number])) for number in range(20)]


def test_damaged_and_foreign_packets_are_never_taken_for_an_answer(sessions: Sessions, bmc: Responder) -> None:
    """Bits flipped, packets cut off, and a packet outside of the session that would spoil its sequence numbers."""
    dice = random.Random(7)
    bmc.answer = lambda netfn, command, content: Response(0, b"true")

    def damage(packet: bytes) -> list[bytes]:
        if packet[5] != 0xC0:
            return [packet]
        flipped = bytearray(packet)
        flipped[dice.randrange(len(packet))] ^= 1 << dice.randrange(8)
        outside = b"\x06\x00\xff\x07\x00\xfe\xff\xff\xff" + bytes(4) + b"\x08" + bytes(8)
        return [bytes(flipped), packet[: dice.randrange(len(packet))], dice.randbytes(dice.randrange(60)), outside, packet]

    bmc.alter = damage
    assert sessions.run(bmc.target(), ask(*[ASK] * 100), LONG) == [Response(0, b"true")] * 100


@pytest.mark.parametrize("seed", range(10))
def test_a_login_into_garbage_ends_with_an_error_of_the_driver_contract(seed: int, hasty: Sessions, bmc: Responder) -> None:
    dice = random.Random(seed)

    def damage(packet: bytes) -> list[bytes]:
        flipped = bytearray(packet)
        for _ in range(dice.randrange(1, 4)):
            flipped[dice.randrange(len(packet))] ^= 1 << dice.randrange(8)
        return [bytes(flipped[: dice.randrange(5, len(packet) + 1)])]

    bmc.alter = damage
    took, _ = seconds_of(lambda: hasty.run(bmc.target(), ask(ASK, STRIKE), 0.04), BackendUnavailable)
    assert took < LATE
    assert bmc.count(0x2C, 2) == 0


def test_garbage_instead_of_the_answer_leaves_the_outcome_unknown_and_is_named(
    hasty: Sessions, clock: SkippingClock, bmc: Responder
) -> None:
    garbage_came = threading.Event()

    def damage(packet: bytes) -> list[bytes]:
        return [b"\x06\x00\xff\x07" + bytes(40)] if bmc.count(0x2C, 2) else [packet]

    def receive(session: PacketSession, packet: bytes) -> Response | None:
        if bmc.count(0x2C, 2):
            garbage_came.set()
        return genuine(session, packet)

    bmc.alter = damage
    genuine = PacketSession.receive
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(1) as callers:
        patched.setattr(PacketSession, "receive", receive)
        call = callers.submit(hasty.run, bmc.target(), ask(ASK, STRIKE), LONG)
        assert garbage_came.wait(LONG)
        clock.skipped += LONG
        error = call.exception()
    assert isinstance(error, OutcomeUnknown)
    assert re.search(r"but [1-9]\d* packets that were garbage", error.reason)
    assert bmc.count(0x2C, 2) == 1


def test_a_bmc_that_floods_is_given_up_in_time_and_delays_no_other(hasty: Sessions, clock: SkippingClock, bmc: Responder) -> None:
    bmc.alter = lambda packet: [os.urandom(50)] * 2000 if bmc.requests else [packet]
    with responding() as other, ThreadPoolExecutor(1) as callers:
        flooded = callers.submit(hasty.run, bmc.target(), ask(), LONG)
        bmc.wait_for(*SET_PRIVILEGE)
        for _ in range(10):
            assert hasty.run(other.target(), ask(), LONG) == [Response(0)]
        clock.skipped += LONG
        error = flooded.exception()
    assert isinstance(error, BackendUnavailable)
    assert "garbage" in error.reason


def test_silence_ends_with_the_limit(sessions: Sessions, silent_port: int) -> None:
    target = Target("server", "127.0.0.1", silent_port)
    took, _ = seconds_of(lambda: sessions.run(target, ask(), SHORT), BackendUnavailable)
    assert SHORT <= took < SHORT + LATE


def test_a_bmc_that_says_nothing_is_named_with_what_to_check(hasty: Sessions, clock: SkippingClock) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, ThreadPoolExecutor(1) as callers:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        call = callers.submit(hasty.run, Target("server", "127.0.0.1", port), ask(), LONG)
        silent.recv(100)
        clock.skipped += LONG
        error = call.exception()
    assert isinstance(error, BackendUnavailable)
    assert re.match(rf"no answer came from the BMC at 127\.0\.0\.1:{port} within \d+\.\d s: ", error.reason)
    assert error.reason.endswith("check address and port, that it can be reached from here, and that IPMI over LAN is switched on there")


def test_a_closed_port_is_told_at_once(sessions: Sessions, silent_port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    took, text = seconds_of(lambda: sessions.run(Target("server", "127.0.0.1", port), ask(), LONG), BackendUnavailable)
    assert took < LONG / 2
    assert f"nothing listens where the BMC at 127.0.0.1:{port} should" in text


def test_a_bmc_that_stops_listening_ends_what_may_be_repeated(hasty: Sessions, bmc: Responder) -> None:
    bmc.answer = answer_only(SET_PRIVILEGE)
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(seconds_of, lambda: hasty.run(bmc.target(), ask(), LONG), BackendUnavailable)
        bmc.wait_for(ASK.netfn, ASK.command)
        bmc.close()
        took, text = call.result()
    assert took < LONG / 2
    assert "has stopped listening" in text


def test_a_closed_port_says_nothing_of_what_was_sent_once(
    hasty: Sessions, clock: SkippingClock, bmc: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be about another packet, or come from a BMC that restarts after it did what it was told."""
    was_refused = threading.Event()
    genuine = Dialog._on_network_error

    def note(dialog: Dialog[object], error: OSError) -> None:
        genuine(dialog, error)
        was_refused.set()

    def conversation() -> Conversation[None]:
        yield ASK
        bmc.close()
        yield STRIKE

    monkeypatch.setattr(Dialog, "_on_network_error", note)
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(hasty.run, bmc.target(), conversation(), LONG)
        assert was_refused.wait(LONG)
        assert not call.done()
        clock.skipped += LONG
        assert isinstance(call.exception(), OutcomeUnknown)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"password": Secret(b"top-secret")}, "refuses the password"),
        ({"username": "nobody"}, "knows no such user"),
        ({"privilege": "operator"}, "does not grant this user the privilege level operator (completion code 0x81)"),
    ],
)
def test_a_refused_login_is_forbidden_says_what_to_check_and_no_credential(
    changes: dict[str, object], what: str, sessions: Sessions, bmc: Responder
) -> None:
    bmc.answer = lambda netfn, command, content: Response(0x81 if (netfn, command) == SET_PRIVILEGE else 0)
    with pytest.raises(BackendUnavailable) as refused:
        sessions.run(bmc.target(**changes), ask(), LONG)
    assert refused.value.code is Code.FORBIDDEN
    assert what in refused.value.reason
    assert "top-secret" not in refused.value.reason
    assert PASSWORD.decode() not in refused.value.reason
    bmc.wait_for(*CLOSE_SESSION, times=bmc.count(*SET_PRIVILEGE))


def test_without_a_privilege_in_the_inventory_operator_will_do(sessions: Sessions, bmc: Responder) -> None:
    bmc.answer = lambda netfn, command, content: Response(0x80 if (netfn, command, content) == (*SET_PRIVILEGE, b"\x04") else 0)
    assert sessions.run(bmc.target(), ask(), LONG) == [Response(0)]
    assert [request for request in bmc.requests if request[:2] == SET_PRIVILEGE] == [(*SET_PRIVILEGE, b"\x04"), (*SET_PRIVILEGE, b"\x03")]


@pytest.mark.parametrize(
    ("offered", "asked", "works"), [({1}, None, True), ({1}, 3, True), ({1}, 17, False), ({3}, 17, True), ({3}, 3, False)]
)
def test_the_cipher_suite_of_the_inventory_is_taken_and_no_other(
    offered: set[int], asked: int | None, works: bool, sessions: Sessions, bmc: Responder
) -> None:
    bmc.ciphers = offered
    if works:
        sessions.run(bmc.target(cipher=asked), ask(), LONG)
    else:
        with pytest.raises(BackendUnavailable, match="No Cipher suite match"):
            sessions.run(bmc.target(cipher=asked), ask(), LONG)


def test_a_bmc_that_speaks_ipmi_1_5_only_is_told_from_a_broken_one(sessions: Sessions, bmc: Responder) -> None:
    bmc.offers_ipmi_2 = False
    with pytest.raises(BackendUnavailable, match=r"it offers no IPMI 2\.0 session"):
        sessions.run(bmc.target(), ask(), LONG)


def test_a_bmc_that_refuses_to_say_how_to_log_in_is_not_asked_for_ever(sessions: Sessions, bmc: Responder) -> None:
    bmc.login_refusal = 0xCC
    with pytest.raises(BackendUnavailable, match="it does not say how to log in"):
        sessions.run(bmc.target(), ask(), LONG)
    assert bmc.steps == [0]


def test_conversations_with_one_bmc_take_turns(sessions: Sessions, bmc: Responder) -> None:
    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(sessions.run, bmc.target(), ask(*[ASK] * 5), LONG) for _ in range(16)]
        assert all(call.result() == [Response(0)] * 5 for call in calls)
    assert bmc.most_open_sessions == 1


def test_who_waits_for_a_busy_bmc_waits_within_his_limit(hasty: Sessions, clock: SkippingClock, bmc: Responder) -> None:
    bmc.answer = answer_only(SET_PRIVILEGE)
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(hasty.run, bmc.target(), ask(), 3 * LONG)
        bmc.wait_for(*SET_PRIVILEGE)
        second = callers.submit(hasty.run, bmc.target(), ask(), LONG)
        wait_until(lambda: any(len(lane) == 2 for lane in hasty._lanes.values()), LONG, "the second to wait for its turn")
        clock.skipped += LONG
        error = second.exception()
        assert not first.done()
        clock.skipped += 2 * LONG
        assert isinstance(first.exception(), BackendUnavailable)
    assert isinstance(error, BackendUnavailable)
    assert "was busy with other requests of ours, or silent, for all of 10.0 s" in error.reason


def test_a_bmc_that_was_let_go_takes_no_conversation_of_its_successor_along(hasty: Sessions, bmc: Responder) -> None:
    bmc.answer = answer_only(SET_PRIVILEGE)
    former, successor = bmc.target(), bmc.target(privilege="operator")
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(hasty.run, former, ask(), LONG)
        bmc.wait_for(*SET_PRIVILEGE)
        second = callers.submit(hasty.run, successor, ask(), LONG)
        wait_until(lambda: any(len(lane) == 2 for lane in hasty._lanes.values()), LONG, "the second to wait for its turn")
        hasty.give_up(former, "let go")
        assert "let go" in str(first.exception())
        bmc.answer = lambda netfn, command, content: Response(0)
        assert second.result() == [Response(0)]


def test_silent_bmcs_delay_no_other(hasty: Sessions, bmc: Responder, silent_port: int) -> None:
    def worst_of(conversations: int) -> float:
        took = []
        for _ in range(conversations):
            began = time.monotonic()
            hasty.run(bmc.target(), ask(), LONG)
            took.append(time.monotonic() - began)
        return sorted(took)[conversations // 2]

    alone = worst_of(40)
    silent = [Target("server", f"127.0.0.{host}", silent_port) for host in range(10, 40)]
    with ThreadPoolExecutor(30) as callers:
        calls = [callers.submit(seconds_of, lambda target=target: hasty.run(target, ask(), LONG), BackendUnavailable) for target in silent]
        beside = worst_of(40)
        for target in silent:
            hasty.give_up(target, "enough")
        assert max(call.result()[0] for call in calls) < LONG
    assert beside < max(10 * alone, LONG / 50)  # whoever had to wait for a silent one would wait for its limit


def test_what_a_conversation_raises_comes_to_its_caller_alone(sessions: Sessions, bmc: Responder) -> None:
    def broken() -> Conversation[None]:
        yield ASK
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        sessions.run(bmc.target(), broken(), LONG)
    assert sessions.run(bmc.target(), ask(), LONG) == [Response(0)]
    bmc.wait_for(*CLOSE_SESSION, times=2)


def test_nothing_is_sent_once_when_there_is_no_time_left_for_its_answer(hasty: Sessions, clock: SkippingClock, bmc: Responder) -> None:
    def dawdle() -> Conversation[None]:
        yield ASK
        clock.skipped = 0.95 * LONG
        yield STRIKE

    with pytest.raises(BackendUnavailable, match="was not asked for more"):
        hasty.run(bmc.target(), dawdle(), LONG)
    assert bmc.count(0x2C, 2) == 0


def test_a_conversation_that_never_stops_asking_is_ended(hasty: Sessions, clock: SkippingClock, bmc: Responder) -> None:
    bmc.answer = answer_only(SET_PRIVILEGE)

    def stubborn() -> Conversation[None]:
        while True:
            try:
                yield ASK
            except NoAnswer:
                continue

    assert isinstance(run_out(hasty, clock, bmc, stubborn(), ASK), BackendUnavailable)


def test_a_name_that_does_not_exist_is_said_to(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(BackendUnavailable, match=r"the BMC's address bmc\.invalid cannot be resolved"):
        sessions.run(Target("server", "bmc.invalid", 623), ask(), LONG)


def test_a_name_that_resolves_slowly_delays_nobody_else(sessions: Sessions, bmc: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver_answers = threading.Event()

    def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert resolver_answers.wait(10)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", bmc.port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with ThreadPoolExecutor(1) as callers:
        slow = callers.submit(sessions.run, Target("server", "bmc.example", bmc.port, "admin", Secret(PASSWORD)), ask(), LONG)
        assert sessions.run(bmc.target(), ask(), LONG) == [Response(0)]
        resolver_answers.set()
        assert slow.result() == [Response(0)]


@pytest.mark.parametrize(("step", "expected"), [("login", BackendUnavailable), ("repeat_request", OutcomeUnknown)])
def test_what_pyghmi_raises_ends_this_conversation_only_in_the_words_of_the_driver_contract(
    step: str, expected: type[DriverError], hasty: Sessions, bmc: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        if step == "repeat_request" and not bmc.count(STRIKE.netfn, STRIKE.command):
            genuine(*arguments)  # the machine is slow: what is repeated is the login's own request
            return
        raise AssertionError("pyghmi did not think of this")

    genuine = getattr(PacketSession, step)
    bmc.answer = answer_only(SET_PRIVILEGE, (0x2C, 2))
    with monkeypatch.context() as patched:
        patched.setattr(PacketSession, step, fail)
        with pytest.raises(expected, match="broke: AssertionError"):
            hasty.run(bmc.target(), ask(STRIKE, ASK), LONG)
    assert hasty.run(bmc.target(), ask(STRIKE), LONG) == [Response(0)]


def test_close_ends_who_waits_and_whatever_comes_later(bmc: Responder) -> None:
    sessions = Sessions(SystemClock())
    bmc.answer = answer_only(SET_PRIVILEGE)
    with ThreadPoolExecutor(2) as callers:
        once = callers.submit(seconds_of, lambda: sessions.run(bmc.target(), ask(STRIKE), LONG), OutcomeUnknown)
        bmc.wait_for(STRIKE.netfn, STRIKE.command)
        waiting = callers.submit(seconds_of, lambda: sessions.run(bmc.target(), ask(), LONG), BackendUnavailable)
        sessions.close()
        assert all(call.result()[0] < LONG / 2 for call in (once, waiting))
    with pytest.raises(BackendUnavailable, match="stopping"):
        sessions.run(bmc.target(), ask(), LONG)
    sessions.close()


def test_no_thread_socket_or_entry_of_pyghmis_is_left_by_conversations_however_they_end(bmc: Responder, silent_port: int) -> None:
    def count_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # what tests before this one have left
    threads, descriptors = set(threading.enumerate()), count_descriptors()
    sessions = Sessions(SystemClock())
    sessions.run(bmc.target(), ask(), LONG)
    in_use = count_descriptors()
    for _ in range(200):
        with pytest.raises(BackendUnavailable):
            sessions.run(bmc.target(password=Secret(b"wrong")), ask(), LONG)
    for _ in range(5):
        with pytest.raises(BackendUnavailable):
            sessions.run(Target("server", "127.0.0.1", silent_port), ask(), 0.03)
    # Whoever asked may go on before the I/O thread has put everything away.
    wait_until(lambda: not sessions._lanes and count_descriptors() == in_use, LONG, "the sockets and the lanes to be let go of")
    assert len(sessions._selector.get_map()) == 1
    sessions.close()
    assert not set(threading.enumerate()) - threads
    assert count_descriptors() == descriptors
    tables = pyghmi_session.Session
    assert not any((tables.bmc_handlers, tables.waiting_sessions, tables.initting_sessions, tables.keepalive_sessions, tables.socketpool))
    assert (pyghmi_session.iothread, pyghmi_session.iosockets, list(pyghmi_session.sessionqueue)) == (None, [], [])
