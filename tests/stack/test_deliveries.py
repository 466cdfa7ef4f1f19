"""Subscribers by webhook and by mail are told of every event, by a real engine, over outages and kill -9."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from api_gateway.deliveries.signature import create_secret
from api_gateway.store import Store, deliveries, events, subscriptions
from api_gateway.store.deliveries import ListedDelivery
from api_gateway.store.subscriptions import SubscriptionRow
from compute_agent.contract import versions
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.notifications import Notification
from devstack.ports import find_free_base
from devstack.services import Service, wait_until
from tests.delivery_servers import Mailbox, Receiver, run_mailbox, run_receiver

_ENGINE = "import sys; from api_gateway.engine import main; sys.exit(main())"
_TIMEOUT = 60
_CLOCK = SystemClock()
EVENTS = 40


class System:
    """A store, an engine process over it, and two targets that can be taken away and brought back."""

    def __init__(self, directory: Path) -> None:
        self.base = find_free_base()
        self.receiver, self.mailbox = Receiver(), Mailbox()
        self._up = {"receiver": ExitStack(), "mailbox": ExitStack()}
        self.directory = directory
        (directory / "gateway.conf").write_text(
            "[DEFAULT]\ntransport_url = rabbit://nobody:nothing@127.0.0.1:1/\n"
            f"[database]\nconnection = sqlite:///{directory / 'gateway.sqlite'}\n"
            "[deliveries]\nallowed_networks = 127.0.0.0/8\nallow_plain_http = true\nlease = 2\nretry_first = 0.2\nretry_longest = 0.5\n"
            "max_tries = 1000\ntimeout = 1\n"
            f"[smtp]\nhost = 127.0.0.1\nport = {self.base + 1}\nsecurity = none\nsender = crashcart@gateway.example\n"
        )
        self.store = Store(f"sqlite:///{directory / 'gateway.sqlite'}", busy_timeout=15)
        self.store.upgrade_schema()
        self._engines = 0

    def start_engine(self) -> Service:
        self._engines += 1
        environment = dict(os.environ) | {"PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", _ENGINE, "--config-file", str(self.directory / "gateway.conf"), "--only", "deliveries"]
        service = Service(f"engine-{self._engines}", command, environment, self.directory / f"engine-{self._engines}.log")
        service.start()
        return service

    def bring(self, *names: str) -> None:
        for name in names:
            target = {
                "receiver": lambda: run_receiver(self.receiver, port=self.base),
                "mailbox": lambda: run_mailbox(self.mailbox, port=self.base + 1),
            }[name]
            self._up[name].enter_context(target())

    def take_away(self, *names: str) -> None:
        for name in names:
            self._up[name].close()

    def close(self) -> None:
        self.take_away(*self._up)
        self.store.dispose()

    def subscribe(self, kind: str, secret: str | None = None) -> str:
        target = f"http://127.0.0.1:{self.base}/hook" if kind == "webhook" else "ops@example.com"
        row = SubscriptionRow(
            id=kind, project=None, user="admin", types=("server.watchdog.*",), severity="warn", server=None,
            target_kind=kind, target=target, created_at=_CLOCK.now(), secret=secret, shown=("hosts",),
        )  # fmt: skip
        with self.store.write() as c:
            subscriptions.insert_subscription(c, row, most=10)
        return kind

    def record(self, count: int, first: int = 0) -> list[str]:
        """Firings of a watchdog; their ids."""
        told = []
        for number in range(first, first + count):
            message_id = f"firing-{number}"
            payload = {
                "version": versions.EVENT_VERSION, "server": None, "host": "compute-1", "epoch": "journal", "sequence": number + 1,
                "occurred_at": _CLOCK.now().isoformat(), "model": "i6300esb",
            }  # fmt: skip
            notification = Notification(message_id, "server.watchdog.fired", "compute_agent.x", "warn", "2026-01-01 00:00:00.0", payload)
            with self.store.write() as c:
                events.record_events(c, [notification], now=_CLOCK.now())
            told.append(message_id)
        return told

    def list_deliveries(self, kind: str) -> list[ListedDelivery]:
        with self.store.read() as c:
            return deliveries.list_deliveries(c, kind, limit=10_000)

    def list_called(self) -> set[str]:
        """The ids of events whose calls were answered with a success."""
        return {call.headers["webhook-id"] for call in self.receiver.calls if call.status < 300}

    def list_mailed(self) -> set[str]:
        texts = [mail.get_content().partition("The whole event:")[2].lstrip() for mail in self.mailbox.mails]
        return {json.JSONDecoder().raw_decode(text)[0]["id"] for text in texts}

    def wait_settled(self, count: int) -> None:
        def all_settled() -> bool:
            rows = [listed.delivery for kind in ("webhook", "email") for listed in self.list_deliveries(kind)]
            return len(rows) == 2 * count and {row.state for row in rows} == {"delivered"}

        wait_until(all_settled, _TIMEOUT, "every delivery is made")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.close()


@pytest.fixture
def start_engine(system: System) -> Iterator[Callable[[], Service]]:
    """Each one is stopped at the end, and none may have logged a fault of ours."""
    started: list[Service] = []

    def start() -> Service:
        started.append(system.start_engine())
        return started[-1]

    yield start
    for service in started:
        if service.is_running:
            service.stop()
        log = service.log.read_text()
        assert "Traceback" not in log, log
        assert "whsec_" not in log


def test_both_are_told_of_everything_and_others_can_check_who_said_it(system: System, start_engine: Callable[[], Service]) -> None:
    secret = create_secret()
    for kind in ("webhook", "email"):
        system.subscribe(kind, secret if kind == "webhook" else None)
    system.bring("receiver", "mailbox")
    start_engine()
    told = set(system.record(EVENTS))
    system.wait_settled(EVENTS)
    assert system.list_called() == told
    assert system.list_mailed() == told
    verified = [Webhook(secret).verify(call.body, call.headers) for call in system.receiver.calls]
    assert {event["id"] for event in verified} == told
    assert {mail["Subject"] for mail in system.mailbox.mails} == {"[crashcart] WARN server.watchdog.fired compute-1"}
    assert len({mail["Message-ID"] for mail in system.mailbox.mails}) == EVENTS


def test_who_was_down_is_told_afterwards_while_the_other_one_does_not_wait(system: System, start_engine: Callable[[], Service]) -> None:
    for kind in ("webhook", "email"):
        system.subscribe(kind, create_secret() if kind == "webhook" else None)
    system.bring("mailbox")
    start_engine()
    told = set(system.record(EVENTS))
    wait_until(lambda: system.list_mailed() == told, _TIMEOUT, "all mails come while the webhook is down")
    wait_until(lambda: sum(row.delivery.tries for row in system.list_deliveries("webhook")) > 2, _TIMEOUT, "the webhook was tried")
    assert all(row.delivery.state == "waiting" for row in system.list_deliveries("webhook"))
    system.receiver.status = 503
    system.bring("receiver")
    wait_until(lambda: len(system.receiver.calls) > 2, _TIMEOUT, "it refuses some")
    assert not any(row.delivery.state == "delivered" for row in system.list_deliveries("webhook"))
    system.receiver.status = 200
    system.wait_settled(EVENTS)
    assert system.list_called() == told


def test_nothing_is_lost_when_engines_are_killed_and_targets_come_and_go(system: System, start_engine: Callable[[], Service]) -> None:
    secret = create_secret()
    for kind in ("webhook", "email"):
        system.subscribe(kind, secret if kind == "webhook" else None)
    told: set[str] = set()
    system.bring("receiver", "mailbox")
    for number in range(3):
        first, second = start_engine(), start_engine()
        wanted = len(system.receiver.calls) + 1 + 5 * number
        told |= set(system.record(EVENTS, first=number * EVENTS))
        wait_until(lambda wanted=wanted: len(system.receiver.calls) >= wanted, _TIMEOUT, "deliveries are under way")  # type: ignore[misc]
        first.kill()
        if number % 2:
            system.take_away("receiver", "mailbox")
        second.kill()
        if number % 2:
            system.bring("receiver", "mailbox")
    start_engine()
    system.wait_settled(3 * EVENTS)
    assert system.list_called() == told
    assert system.list_mailed() == told
    for call in system.receiver.calls:
        Webhook(secret).verify(call.body, call.headers)
    print(f"{len(told)} events, {len(system.receiver.calls)} calls, {len(system.mailbox.mails)} mails")
