"""A webhook is called once per try: signed, at an address that was looked at, for so long and no longer."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from api_gateway.deliveries.addresses import parse_network
from api_gateway.deliveries.outcome import Message, NotDelivered
from api_gateway.deliveries.signature import create_secret
from api_gateway.deliveries.targets import TargetRules
from api_gateway.deliveries.webhook import WebhookSender
from api_gateway.store.subscriptions import SubscriptionRow
from compute_agent.contract.clock import Clock, SystemClock
from tests.delivery_servers import Receiver, run_receiver
from tests.fakes import FakeClock

LOOPBACK = TargetRules(allowed_networks=(parse_network("127.0.0.0/8"),), allow_plain_http=True)
NOW = SystemClock().now()


class Names:
    """A resolver whose answers a test writes down."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if not self.answers:
            raise socket.gaierror("no such name")
        return self.answers.pop(0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver(Receiver()) as receiver:
        yield receiver


def build_message(url: str, *, event_id: str = "m-1", secret: str | None = None, **payload: Any) -> Message:
    subscription = SubscriptionRow(
        id="s-1",
        project="demo",
        user="u",
        types=(),
        severity="info",
        server=None,
        target_kind="webhook",
        target=url,
        created_at=NOW,
        secret=secret or create_secret(),
    )
    return Message(subscription, "s-1.7", {"id": event_id, "position": 7, "type": "server.watchdog.fired", "payload": payload}, "web-1")


def create_sender(
    rules: TargetRules = LOOPBACK,
    *,
    names: Names | None = None,
    clock: Clock | None = None,
    timeout: float = 60.0,
    ca: trustme.CA | None = None,
) -> WebhookSender:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    if ca is not None:
        ca.configure_trust(context)
    return WebhookSender(rules, clock or SystemClock(), timeout=timeout, context=context, resolver=names or Names(["127.0.0.1"]))


def test_a_call_carries_the_event_signed_so_that_others_can_check_it(receiver: Receiver) -> None:
    secret = create_secret()
    create_sender().send(build_message(f"http://hooks.example:{receiver.port}/in?key=1", secret=secret, model="i6300esb"))
    (call,) = receiver.calls
    assert call.path == "/in?key=1"
    assert call.headers["host"] == f"hooks.example:{receiver.port}"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == "m-1"
    assert Webhook(secret).verify(call.body, call.headers)["payload"] == {"model": "i6300esb"}
    with pytest.raises(WebhookVerificationError):
        Webhook(create_secret()).verify(call.body, call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(call.body + b" ", call.headers)


def test_an_event_whose_id_is_no_header_is_called_by_its_delivery(receiver: Receiver) -> None:
    secret = create_secret()
    create_sender().send(build_message(f"http://hooks.example:{receiver.port}/", event_id="a.b\r\nx: y", secret=secret))
    assert receiver.calls[0].headers["webhook-id"] == "s-1-7"
    Webhook(secret).verify(receiver.calls[0].body, receiver.calls[0].headers)


def test_a_name_is_resolved_once_for_each_try_and_called_nowhere_else(receiver: Receiver) -> None:
    """A second answer that leads inside finds nobody who asks for it."""
    names = Names(["127.0.0.1"], ["127.0.0.9"])
    create_sender(names=names).send(build_message(f"http://hooks.example:{receiver.port}/"))
    assert names.asked == [("hooks.example", receiver.port)]
    assert len(receiver.calls) == 1


def test_a_name_that_leads_inside_is_not_called(receiver: Receiver) -> None:
    rules = TargetRules(allow_plain_http=True)
    with pytest.raises(NotDelivered, match="no public address"):
        create_sender(rules).send(build_message(f"http://hooks.example:{receiver.port}/"))
    assert receiver.calls == []


def test_of_several_addresses_only_allowed_ones_are_tried_until_one_takes_the_connection(receiver: Receiver) -> None:
    names = Names(["10.0.0.1", "127.0.0.77", "127.0.0.1"])
    create_sender(names=names).send(build_message(f"http://hooks.example:{receiver.port}/"))
    assert len(receiver.calls) == 1


def test_a_url_that_is_not_allowed_any_more_is_not_called(receiver: Receiver) -> None:
    rules = TargetRules(allowed_networks=LOOPBACK.allowed_networks)
    with pytest.raises(NotDelivered, match="allow_plain_http"):
        create_sender(rules).send(build_message(f"http://hooks.example:{receiver.port}/"))
    assert receiver.calls == []


def test_a_name_that_there_is_not_is_said() -> None:
    with pytest.raises(NotDelivered, match=r"hooks\.example cannot be resolved"):
        create_sender(names=Names()).send(build_message("http://hooks.example/"))


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_a_delivery(receiver: Receiver, status: int) -> None:
    receiver.status = status
    create_sender().send(build_message(f"http://hooks.example:{receiver.port}/"))


@pytest.mark.parametrize(("status", "sentence"), [(400, "answered 400"), (302, "no redirect is followed"), (500, "answered 500")])
def test_anything_else_is_none_and_no_redirect_is_followed(receiver: Receiver, status: int, sentence: str) -> None:
    receiver.status, receiver.headers = status, {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    with pytest.raises(NotDelivered, match=sentence) as caught:
        create_sender().send(build_message(f"http://hooks.example:{receiver.port}/secret-path"))
    assert len(receiver.calls) == 1
    assert "secret-path" not in caught.value.reason
    assert not caught.value.is_final


def test_gone_is_final(receiver: Receiver) -> None:
    receiver.status = 410
    with pytest.raises(NotDelivered) as caught:
        create_sender().send(build_message(f"http://hooks.example:{receiver.port}/"))
    assert caught.value.is_final


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thu, 01 Jan 2020 00:01:00 GMT", 0.0),
        ("9" * 30, 86_400.0),
        ("soon", 0.0),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 00:01:00 +99999999999999999999", 0.0),
        ("-5", 0.0),
    ],
)
def test_a_wish_to_be_left_alone_is_read(receiver: Receiver, text: str, seconds: float) -> None:
    receiver.status, receiver.headers = 503, {"Retry-After": text}
    with pytest.raises(NotDelivered) as caught:
        create_sender(clock=FakeClock()).send(build_message(f"http://hooks.example:{receiver.port}/"))
    assert caught.value.retry_after == seconds


def test_an_answer_that_comes_byte_by_byte_is_cut_off(receiver: Receiver) -> None:
    """Each read is quick, so no timeout of a read would end it."""
    stop = threading.Event()

    def drip(link: socket.socket) -> None:
        link.sendall(b"HTTP/1.1 ")
        while not stop.wait(0.02):
            link.sendall(b"x")

    receiver.before_answer = drip
    begun = time.monotonic()
    with pytest.raises(NotDelivered):
        create_sender(timeout=0.15).send(build_message(f"http://hooks.example:{receiver.port}/"))
    stop.set()
    assert time.monotonic() - begun < 15


def test_an_endless_body_behind_a_2xx_is_left_and_counts_as_delivered(receiver: Receiver) -> None:
    stop = threading.Event()

    def pour(link: socket.socket) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not stop.wait(0.02):
            link.sendall(b"x")

    receiver.before_answer = pour
    create_sender(timeout=2.0).send(build_message(f"http://hooks.example:{receiver.port}/"))
    stop.set()


def test_silence_is_said_with_its_length(receiver: Receiver) -> None:
    stop = threading.Event()
    receiver.before_answer = lambda link: stop.wait(5) and None
    with pytest.raises(NotDelivered, match=r"hooks\.example"):
        create_sender(timeout=0.1).send(build_message(f"http://hooks.example:{receiver.port}/"))
    stop.set()


def test_who_does_not_take_connections_is_said() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(NotDelivered, match="cannot be connected to"):
        create_sender().send(build_message(f"http://hooks.example:{port}/"))


def test_what_is_not_http_is_said() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        link, _ = listener.accept()
        link.recv(65536)
        link.sendall(b"SSH-2.0-OpenSSH\r\n")
        link.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(NotDelivered, match="not HTTP"):
        create_sender().send(build_message(f"http://hooks.example:{listener.getsockname()[1]}/"))
    thread.join(5)
    listener.close()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def create_context(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


def test_https_goes_to_the_address_and_asks_for_the_name(ca: trustme.CA) -> None:
    with run_receiver(Receiver(), context=create_context(ca, "hooks.example")) as receiver:
        create_sender(ca=ca).send(build_message(f"https://hooks.example:{receiver.port}/"))
    assert receiver.server_names == ["hooks.example"]
    assert receiver.calls[0].headers["host"] == f"hooks.example:{receiver.port}"


def test_a_certificate_of_another_name_or_of_a_stranger_is_not_trusted(ca: trustme.CA) -> None:
    with run_receiver(Receiver(), context=create_context(ca, "127.0.0.1")) as receiver:
        with pytest.raises(NotDelivered, match="certificate"):
            create_sender(ca=ca).send(build_message(f"https://hooks.example:{receiver.port}/"))
        with pytest.raises(NotDelivered, match="certificate"):
            create_sender().send(build_message(f"https://127.0.0.1:{receiver.port}/"))
        create_sender(ca=ca).send(build_message(f"https://127.0.0.1:{receiver.port}/"))
    assert len(receiver.calls) == 1


def test_a_secret_is_in_no_text_of_a_subscription() -> None:
    message = build_message("https://hooks.example/", secret="whsec_c2VjcmV0c2VjcmV0c2VjcmV0")
    assert "whsec_" not in repr(message)
