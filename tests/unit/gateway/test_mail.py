"""A mail per event: readable, recognisable when it comes twice, and with nothing in its head that an event put there."""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import AuthResult, LoginPassword

from api_gateway.deliveries.mail import MailSender, MailServer
from api_gateway.deliveries.outcome import Message, NotDelivered
from api_gateway.deliveries.targets import TargetRules
from tests.delivery_servers import Mailbox, run_mailbox
from tests.fakes import FakeClock
from tests.unit.gateway.test_webhooks import build_message as build_webhook_message

RULES = TargetRules(mail=True)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with run_mailbox(Mailbox()) as mailbox:
        yield mailbox


def build_message(*, address: str = "ops@example.com", name: str | None = "web-1", **changes: Any) -> Message:
    message = build_webhook_message("")
    event = {
        "id": "m-1",
        "position": 7,
        "type": "server.watchdog.fired",
        "severity": "warn",
        "server": "11111111-2222-4333-8444-555555555555",
        "host": "compute-1",
        "project": "demo",
        "action_id": None,
        "occurred_at": "2026-01-01T00:00:00.000000Z",
        "recorded_at": "2026-01-01T00:00:00.100000Z",
        "payload": {"model": "i6300esb", "text": "The watchdog was not fed in time."},
    }
    subscription = replace(message.subscription, target_kind="email", target=address, secret=None)
    return Message(subscription, message.delivery, event | changes, name)


def create_sender(mailbox: Mailbox, *, rules: TargetRules = RULES, ca: trustme.CA | None = None, **changes: Any) -> MailSender:
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": mailbox.port,
        "security": "none",
        "user": None,
        "password_file": "",
        "sender": "crashcart@gateway.example",
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    if ca is not None:
        ca.configure_trust(context)
    return MailSender(MailServer(**(values | changes)), rules, FakeClock(), timeout=60.0, context=context)


def test_a_mail_says_in_its_subject_and_in_sentences_what_happened(mailbox: Mailbox) -> None:
    create_sender(mailbox).send(build_message())
    (mail,) = mailbox.mails
    assert mailbox.recipients == [["ops@example.com"]]
    assert mail["Subject"] == "[crashcart] WARN server.watchdog.fired web-1"
    assert mail["From"] == "crashcart <crashcart@gateway.example>"
    assert mail["To"] == "ops@example.com"
    text = mail.get_content()
    assert "the server web-1 (11111111-2222-4333-8444-555555555555) of the project demo on the host compute-1." in text
    assert "The watchdog was not fed in time." in text
    assert '"model": "i6300esb"' in text
    assert "DELETE /v1/subscriptions/s-1" in text


def test_the_same_delivery_has_the_same_message_id_each_time(mailbox: Mailbox) -> None:
    for _ in range(2):
        create_sender(mailbox).send(build_message())
    assert [mail["Message-ID"] for mail in mailbox.mails] == ["<s-1.7@gateway.example>"] * 2


def test_an_event_cannot_write_into_the_head_of_its_mail(mailbox: Mailbox) -> None:
    name = "web\r\nBcc: everybody@example.com\r\n\r\nbought \u2028 \ud800 ünd"
    create_sender(mailbox).send(build_message(name=name, type="x\r\nY: z" + "\u00e4" * 300))
    (mail,) = mailbox.mails
    assert set(mail.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding", "MIME-Version",
    } | {key for key in mail if key.startswith("X-")}  # fmt: skip
    assert mailbox.recipients == [["ops@example.com"]]
    assert "\n" not in mail["Subject"]


def test_a_text_that_no_mail_can_hold_is_told_all_the_same(mailbox: Mailbox) -> None:
    create_sender(mailbox).send(build_message(payload={"reason": "half \ud800 a letter"}))
    text = mailbox.mails[0].get_content()
    assert "half ? a letter" in text
    assert '"reason": "half \\ud800 a letter"' in text


def test_an_event_of_a_host_says_so(mailbox: Mailbox) -> None:
    create_sender(mailbox).send(build_message(name=None, server=None, project=None, payload=None, type="agent.down"))
    assert mailbox.mails[0]["Subject"] == "[crashcart] WARN agent.down compute-1"
    assert "about no server" in mailbox.mails[0].get_content()


def test_a_refusal_is_said_by_its_number(mailbox: Mailbox) -> None:
    mailbox.answer = "451 later please, to ops@example.com"
    with pytest.raises(NotDelivered, match=r"answered 451\.$"):
        create_sender(mailbox).send(build_message())


def test_a_server_that_is_away_is_said(mailbox: Mailbox) -> None:
    with run_mailbox(Mailbox()) as gone:
        pass
    with pytest.raises(NotDelivered, match="cannot be reached"):
        create_sender(gone).send(build_message())


def test_without_the_protection_that_was_asked_for_nothing_is_sent(mailbox: Mailbox) -> None:
    with pytest.raises(NotDelivered):
        create_sender(mailbox, security="starttls").send(build_message())
    assert mailbox.mails == []


def test_an_address_of_a_domain_that_is_not_allowed_any_more_is_not_written_to(mailbox: Mailbox) -> None:
    with pytest.raises(NotDelivered, match="allowed_domains"):
        create_sender(mailbox, rules=TargetRules(mail=True, mail_domains=("other.example",))).send(build_message())
    assert mailbox.mails == []


def test_it_logs_in_behind_starttls_and_says_when_it_may_not(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    password = tmp_path / "password"
    password.write_text("right\n")

    def authenticate(_server: object, _session: object, _envelope: object, _mechanism: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        return AuthResult(success=(given.login, given.password) == (b"crashcart", b"right"), handled=False)

    options = {"security": "starttls", "user": "crashcart", "password_file": str(password)}
    with run_mailbox(Mailbox(), tls_context=context, require_starttls=True, auth_required=True, authenticator=authenticate) as mailbox:
        create_sender(mailbox, ca=ca, **options).send(build_message())
        with pytest.raises(NotDelivered, match="TLS with the mail server failed"):
            create_sender(mailbox, **options).send(build_message())
        password.write_text("wrong\n")
        with pytest.raises(NotDelivered, match="refused the gateway's login"):
            create_sender(mailbox, ca=ca, **options).send(build_message())
        password.unlink()
        with pytest.raises(NotDelivered, match="cannot read its password"):
            create_sender(mailbox, ca=ca, **options).send(build_message())
    assert len(mailbox.mails) == 1
