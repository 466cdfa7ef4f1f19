"""The background connection: comes back by itself, complete, and makes callers wait for nothing but the first try."""

import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime

import libvirt
import pytest

from compute_agent.contract.clock import SystemClock
from compute_agent.contract.errors import Code
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.libvirt import connection as connection_module
from compute_agent.drivers.libvirt.connection import Connection
from compute_agent.drivers.libvirt.link import Address, KeepAlive
from tests.unit.agent.libvirt_fakes import make_error

URI = "qemu+tcp://admin:hunter2@host/system?password=hunter3&socket=/run/s"


class FakeLink:
    """One virConnect: remembers what was asked of it and can break."""

    def __init__(self, keepalive_error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.is_closed = False
        self._keepalive_error = keepalive_error

    def registerCloseCallback(self, callback: object, opaque: object) -> None:
        self.asked.append("close callback")
        self._callback, self._opaque = callback, opaque

    def unregisterCloseCallback(self) -> None:
        self.asked.append("no close callback")

    def setKeepAlive(self, interval: int, count: int) -> None:
        if self._keepalive_error is not None:
            raise self._keepalive_error
        self.asked.append(f"keepalive {interval} {count}")

    def close(self) -> None:
        self.is_closed = True

    def break_off(self, reason: int) -> None:
        self._callback(self, reason, self._opaque)


class Backend:
    """libvirt.open as a script: each item is a link to give or an error to raise; then it waits for more."""

    def __init__(self) -> None:
        self.script: queue.SimpleQueue[FakeLink | Exception] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.tries: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.unread: list[frozenset[str]] = []

    def open(self, uri: str) -> FakeLink:
        self.tries.put(uri)
        item = self.script.get(timeout=10)
        if isinstance(item, Exception):
            raise item
        return item

    def register(self, link: FakeLink) -> None:
        link.asked.append("events")

    def on_lost(self, reason: str, at: datetime) -> None:
        self.told.put(f"lost: {reason}")

    def on_back(self, server: str | None) -> None:
        self.told.put("back" if server is None else f"back: {server}")

    def list_unread(self, link: FakeLink) -> frozenset[str]:
        return self.unread.pop(0) if self.unread else frozenset()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Backend()
    monkeypatch.setattr(libvirt, "open", backend.open)
    monkeypatch.setattr(connection_module, "_RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(connection_module, "_FIRST_PAUSE", 0.01)
    return backend


@pytest.fixture
def connection(backend: Backend) -> Iterator[Connection]:
    connection = Connection(
        Address(URI, KeepAlive(3, 3)),
        SystemClock(),
        register=backend.register,
        on_lost=backend.on_lost,
        on_back=backend.on_back,
        list_unread=backend.list_unread,
    )
    yield connection
    backend.script.put(make_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="over"))
    connection.close()


def test_calls_before_the_opening_are_unavailable_at_once(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_TRY_LIMIT", 3600.0)
    with pytest.raises(BackendUnavailable, match="not connected"):
        connection.get()


def ask_during_the_next_try(backend: Backend, connection: Connection) -> Future[object]:
    """Somebody who asks for the connection while libvirt has not answered."""
    backend.tries.get(timeout=60)
    asked: Future[object] = Future()

    def ask() -> None:
        try:
            asked.set_result(connection.get())
        except BackendUnavailable as error:
            asked.set_exception(error)

    threading.Thread(target=ask).start()
    return asked


@pytest.mark.parametrize("limit", [60.0, 0.05])
def test_opening_does_not_wait_and_callers_wait_for_the_end_of_the_first_try_for_a_moment(
    backend: Backend, connection: Connection, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_TRY_LIMIT", limit)
    connection.open()
    asked = ask_during_the_next_try(backend, connection)
    if limit < 1:
        with pytest.raises(BackendUnavailable, match="not connected"):
            asked.result(60)
        return
    link = FakeLink()
    backend.script.put(link)
    assert asked.result(60) is link


def test_callers_wait_for_no_try_but_the_first(backend: Backend, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_TRY_LIMIT", 3600.0)
    connection.open()
    asked = ask_during_the_next_try(backend, connection)
    backend.script.put(make_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="refused"))
    with pytest.raises(BackendUnavailable, match="refused"):
        asked.result(60)
    with pytest.raises(BackendUnavailable, match="refused"):
        ask_during_the_next_try(backend, connection).result(60)


def test_callers_do_not_wait_for_a_driver_that_closes(backend: Backend, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_TRY_LIMIT", 3600.0)
    connection.open()
    monkeypatch.setattr(connection_module, "_SHORT_GOODBYE", 0.01)
    asked = ask_during_the_next_try(backend, connection)
    connection.close()
    with pytest.raises(BackendUnavailable, match="not connected"):
        asked.result(60)


def test_everything_is_registered_before_the_connection_is_reported(backend: Backend, connection: Connection) -> None:
    link = FakeLink()
    backend.script.put(link)
    connection.open()
    assert backend.told.get(timeout=60) == "back"
    assert link.asked == ["keepalive 3 3", "close callback", "events"]
    assert connection.get() is link


def test_a_lost_connection_is_replaced_by_one_with_all_registrations(backend: Backend, connection: Connection) -> None:
    first, second = FakeLink(), FakeLink()
    backend.script.put(first)
    connection.open()
    backend.told.get(timeout=60)
    first.break_off(libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE)
    with pytest.raises(BackendUnavailable, match="does not answer"):
        connection.get()
    assert backend.told.get(timeout=60) == "lost: libvirtd does not answer"
    backend.script.put(make_error(libvirt.VIR_ERR_SYSTEM_ERROR, message="refused"))
    backend.script.put(second)
    assert backend.told.get(timeout=60) == "back"
    assert connection.get() is second
    assert second.asked == ["keepalive 3 3", "close callback", "events"]
    assert first.is_closed


def test_a_server_whose_events_begin_later_is_told_of_when_they_have_begun(backend: Backend, connection: Connection) -> None:
    link = FakeLink()
    backend.unread = [frozenset({"a", "b", "c"}), frozenset({"b", "c"}), frozenset({"c", "busy since"}), frozenset({"busy since"})]
    backend.script.put(link)
    connection.open()
    assert [backend.told.get(timeout=60) for _ in range(4)] == ["back", "back: a", "back: b", "back: c"]
    link.break_off(libvirt.VIR_CONNECT_CLOSE_REASON_EOF)
    assert backend.told.get(timeout=60) == "lost: libvirtd closed the connection"


def test_a_connection_that_is_lost_meanwhile_is_not_waited_with(backend: Backend, connection: Connection) -> None:
    link = FakeLink()
    backend.unread = [frozenset({"stuck"})] * 10_000
    backend.script.put(link)
    connection.open()
    assert backend.told.get(timeout=60) == "back"
    link.break_off(libvirt.VIR_CONNECT_CLOSE_REASON_EOF)
    assert backend.told.get(timeout=60) == "lost: libvirtd closed the connection"


def test_a_late_word_of_an_old_connection_does_not_end_the_new_one(backend: Backend, connection: Connection) -> None:
    first, second = FakeLink(), FakeLink()
    backend.script.put(first)
    backend.script.put(second)
    connection.open()
    backend.told.get(timeout=60)
    first.break_off(libvirt.VIR_CONNECT_CLOSE_REASON_EOF)
    assert [backend.told.get(timeout=60) for _ in range(2)] == ["lost: libvirtd closed the connection", "back"]
    first.break_off(libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT)
    assert connection.get() is second


def test_a_connection_that_breaks_before_it_is_complete_is_not_used(backend: Backend, connection: Connection) -> None:
    """One without its registrations would stay silent for ever."""
    broken, good = FakeLink(keepalive_error=make_error(libvirt.VIR_ERR_RPC, message="broken")), FakeLink()
    backend.script.put(broken)
    backend.script.put(good)
    connection.open()
    assert backend.told.get(timeout=60) == "back"
    assert connection.get() is good
    assert broken.is_closed


def test_refused_credentials_are_told_apart_from_an_absent_libvirtd(backend: Backend, connection: Connection) -> None:
    backend.script.put(make_error(libvirt.VIR_ERR_AUTH_FAILED, message="authentication failed"))
    connection.open()
    for _ in range(2):  # when the second try begins, the failure of the first is known
        backend.tries.get(timeout=60)
    with pytest.raises(BackendUnavailable) as refused:
        connection.get()
    assert refused.value.code is Code.FORBIDDEN


def test_a_hypervisor_without_keepalive_is_used_all_the_same(backend: Backend, connection: Connection) -> None:
    backend.script.put(FakeLink(keepalive_error=make_error(libvirt.VIR_ERR_NO_SUPPORT, message="no keepalive")))
    connection.open()
    assert backend.told.get(timeout=60) == "back"


def test_closing_lets_go(backend: Backend, connection: Connection) -> None:
    link = FakeLink()
    backend.script.put(link)
    connection.open()
    backend.told.get(timeout=60)
    connection.close()
    assert link.is_closed
    with pytest.raises(BackendUnavailable):
        connection.get()


def test_no_password_is_logged_or_told(backend: Backend, connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    backend.script.put(make_error(libvirt.VIR_ERR_NO_CONNECT, message=f"no connection driver available for {URI}"))
    backend.script.put(FakeLink())
    with caplog.at_level(logging.DEBUG):
        connection.open()
        backend.told.get(timeout=60)
    assert "no connection driver" in caplog.text
    assert "hunter" not in caplog.text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("qemu:///system", "qemu:///system"),
        ("qemu+unix:///system?socket=/run/libvirt/s", "qemu+unix:///system?socket=/run/libvirt/s"),
        ("qemu+tls://ann:secret@host:1/system", "qemu+tls://ann@host:1/system"),
        ("qemu+ssh://host/system?keyfile=/k&password=x", "qemu+ssh://host/system?keyfile=/k&password=***"),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert Address(uri, KeepAlive(3, 3)).shown == shown


def test_a_frozen_libvirtd_is_noticed_after_all_questions_went_unanswered() -> None:
    assert KeepAlive(3, 3).bound == 12.0
