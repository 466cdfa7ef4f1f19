"""The way to a BMC over Redfish: ends in time, trusts nobody unasked, logs in once, and tells no password."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from compute_agent.contract.errors import Code
from compute_agent.contract.models import PowerState
from compute_agent.drivers.bmc.protocol import Secret
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.redfish import protocol
from tests.redfish_server import PASSWORD, SESSIONS, SYSTEM, Answering, Handler, refer
from tests.unit.agent.redfish_parts import LIMIT, SHORT, Connected, connected, get_authority


def refuse(at: Connected, limit: float = LIMIT) -> BackendUnavailable:
    with pytest.raises(BackendUnavailable) as refusal:
        at.bmc.read_state(limit)
    return refusal.value


def drip(handler: Handler) -> None:
    """A byte now and then, so that no single read ever waits for long."""
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(b"H")
            threading.Event().wait(SHORT / 10)
    except OSError:
        return


def drip_body(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    drip(handler)


def flood(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    handler.close_connection = True
    try:
        for _ in range(100):
            handler.wfile.write(bytes(2**20))
    except OSError:
        return


@pytest.mark.parametrize("answering", [drip, drip_body])
def test_a_bmc_that_drips_is_given_up_at_the_limit(answering: Answering) -> None:
    with connected() as at:
        at.small.answering[("GET", SYSTEM)] = answering
        began = time.monotonic()
        assert "time" in refuse(at, SHORT).reason
        assert time.monotonic() - began < LIMIT / 2


def test_an_endless_answer_is_not_taken_into_memory() -> None:
    with connected() as at:
        at.small.answering[("GET", SYSTEM)] = flood
        assert "16 MiB" in refuse(at).reason


def test_a_lost_answer_is_not_asked_for_again() -> None:
    with connected() as at:
        at.small.answering[("GET", SYSTEM)] = Handler.cut
        refuse(at)
        assert at.small.count("GET", SYSTEM) == 1


def test_closing_ends_calls_that_wait_and_all_later_ones() -> None:
    arrived = threading.Event()

    def hang(handler: Handler) -> None:
        arrived.set()
        handler.connection.recv(1)

    with connected() as at, ThreadPoolExecutor(1) as pool:
        at.small.answering[("GET", SYSTEM)] = hang
        waiting = pool.submit(refuse, at, 60.0)
        assert arrived.wait(LIMIT)
        at.bmc.close()
        assert "no longer served" in waiting.result(LIMIT).reason
        assert "no longer served" in refuse(at).reason


def test_many_threads_may_ask_at_once_and_log_in_once() -> None:
    with connected(sessions=True) as at, ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda _: at.bmc.read_state(LIMIT), range(16)))
        assert {state.power_state for state in states} == {PowerState.RUNNING}
        assert at.small.count("POST", SESSIONS) == 1


def test_a_session_that_the_bmc_forgot_is_made_anew_once_and_given_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LOG_OUT_LIMIT", LIMIT)
    monkeypatch.setattr(protocol, "_LOG_OUTS_LIMIT", LIMIT)
    with connected(sessions=True) as at:
        at.bmc.read_state(LIMIT)
        assert at.small.tokens is not None
        at.small.tokens.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: at.bmc.read_state(LIMIT), range(4)))
        assert at.small.count("POST", SESSIONS) == 2
        small = at.small
    assert [asked.path for asked in small.asked if asked.method == "DELETE"] == [f"{SESSIONS}/{token}" for token in small.tokens or ()]


def test_a_bmc_that_takes_a_forgotten_token_for_a_wrong_one_is_logged_in_to_without_it() -> None:
    """Also where it asks nobody else who they are."""

    def refuse_forgotten(handler: Handler) -> None:
        if "X-Auth-Token" in handler.headers:
            handler.refuse(401, "NoValidSession", "It has ended")
        else:
            handler.send(200, at.small.documents["/redfish/v1/"])

    with connected(sessions=True) as at:
        at.bmc.read_state(LIMIT)
        assert at.small.tokens is not None
        at.small.tokens.clear()
        at.small.answering[("GET", "/redfish/v1/")] = refuse_forgotten
        assert at.bmc.read_state(LIMIT).power_state is PowerState.RUNNING
        assert at.small.count("POST", SESSIONS) == 2


@pytest.mark.parametrize(("status", "code"), [(503, Code.BACKEND_UNAVAILABLE), (500, Code.FORBIDDEN)])
def test_a_bmc_that_did_not_tell_of_its_sessions_while_it_started_is_asked_again(status: int, code: Code) -> None:
    def start(handler: Handler) -> None:
        del at.small.answering[("GET", "/redfish/v1/")]
        handler.refuse(status, "GeneralError", "It starts")

    with connected(sessions=True) as at:
        at.small.answering[("GET", "/redfish/v1/")] = start
        assert refuse(at).code is code
        assert at.bmc.read_state(LIMIT).power_state is PowerState.RUNNING


def test_without_sessions_the_password_goes_with_every_request() -> None:
    with connected() as at:
        at.bmc.read_state(LIMIT)
        assert at.small.count("POST", SESSIONS) == 0
        assert all("Authorization" in asked.headers for asked in at.small.asked[1:])


def test_a_full_table_of_sessions_does_not_keep_us_out() -> None:
    with connected(sessions=True) as at:
        at.small.answering[("POST", SESSIONS)] = lambda handler: handler.refuse(403, "SessionLimitExceeded", "Too many sessions")
        at.small.answering[("GET", SYSTEM)] = lambda handler: handler.send(200, at.small.documents[SYSTEM])
        at.small.answering[("GET", "/redfish/v1/Systems")] = lambda handler: handler.send(200, {"Members": refer(SYSTEM)})
        at.bmc.read_state(LIMIT)
        assert "Authorization" in at.small.asked[-1].headers


@pytest.mark.parametrize("sessions", [False, True])
def test_a_wrong_password_is_forbidden_and_tried_once_and_told_to_nobody(sessions: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with connected(sessions=sessions, password=Secret(b"not-the-password")) as at:
        refusal = refuse(at)
        tried = [asked for asked in at.small.asked[1:] if asked.path not in ("/redfish/v1/", SYSTEM)]
        assert len(tried) == 1
    assert refusal.code is Code.FORBIDDEN
    assert "not-the-password" not in refusal.reason + caplog.text


def test_a_password_that_the_bmc_repeats_is_cut_out_of_the_reason() -> None:
    with connected() as at:
        at.small.answering[("GET", "/redfish/v1/Systems")] = lambda handler: handler.refuse(403, "Denied", f"{PASSWORD} is not enough")
        assert refuse(at).reason.endswith("*** is not enough)")


def test_a_password_that_is_no_text_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="UTF-8"), connected(password=Secret(b"\xff")):
        pass


@pytest.mark.parametrize(
    ("changes", "advice"), [({"ca_file": None}, "as ca_file in the inventory"), ({"address": "localhost"}, "address into the inventory")]
)
def test_a_certificate_is_verified_by_authority_and_name(changes: dict[str, object], advice: str) -> None:
    with connected(**changes) as at:
        reason = refuse(at).reason
        assert "certificate is not trusted" in reason
        assert advice in reason
        assert at.small.asked == []


def test_an_unverified_bmc_is_spoken_to_on_demand() -> None:
    with connected(ca_file=None, verify_tls=False) as at:
        assert at.bmc.read_state(LIMIT).power_state is PowerState.RUNNING


def test_a_ca_file_that_cannot_be_used_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        with pytest.raises(ValueError, match=name), connected(ca_file=tmp_path / name):
            pass


def test_a_ca_file_that_was_renewed_holds_at_once(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes())
    with connected(ca_file=ca_file) as at:
        assert "ertificate" in refuse(at).reason
        ca_file.write_bytes(get_authority()[1].read_bytes())
        assert at.bmc.read_state(LIMIT).power_state is PowerState.RUNNING
        ca_file.unlink()
        assert "ca.pem cannot be read" in refuse(at).reason


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    with connected() as at:
        at.bmc.read_state(LIMIT)


@pytest.mark.parametrize("place", ["/elsewhere", "https://evil.example/elsewhere"])
def test_a_redirect_is_followed_at_the_same_bmc_only(place: str) -> None:
    """Nobody else is ever given the password: of an address only the path is taken."""
    with connected() as at:
        at.small.answering[("GET", SYSTEM)] = lambda handler: handler.send(308, Location=place)
        at.small.documents["/elsewhere"] = at.small.documents[SYSTEM]
        at.bmc.read_state(LIMIT)
        assert at.small.count("GET", "/elsewhere") == 1


def test_a_redirect_without_end_ends() -> None:
    with connected() as at:
        at.small.answering[("GET", SYSTEM)] = lambda handler: handler.send(302, Location=SYSTEM)
        assert "elsewhere" in refuse(at).reason


# Which system


def test_one_of_several_systems_is_named_by_path_or_identity() -> None:
    for named in ("b2", "B2", "/redfish/v1/Systems/b2"):
        with connected(system=named) as at:
            at.small.documents["/redfish/v1/Systems"]["Members"] = refer(SYSTEM, "/redfish/v1/Systems/b2")
            at.small.documents["/redfish/v1/Systems/b2"] = {"PowerState": "Off"}
            assert at.bmc.read_state(LIMIT).power_state is PowerState.SHUTDOWN


@pytest.mark.parametrize("system", [None, "c3"])
def test_a_system_that_is_not_clear_is_asked_for_with_the_names_that_there_are(system: str | None) -> None:
    with connected(system=system) as at:
        at.small.documents["/redfish/v1/Systems"]["Members"] = refer(SYSTEM, "/redfish/v1/Systems/b2")
        reason = refuse(at).reason
    assert "1, b2" in reason
    assert "c3" in reason or "inventory" in reason


def test_a_system_that_moved_is_found_again() -> None:
    with connected() as at:
        at.bmc.read_state(LIMIT)
        moved = "/redfish/v1/Systems/moved"
        at.small.documents[moved] = at.small.documents.pop(SYSTEM)
        at.small.documents["/redfish/v1/Systems"]["Members"] = refer(moved)
        assert at.bmc.read_state(LIMIT).power_state is PowerState.RUNNING
