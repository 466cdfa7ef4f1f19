"""Deliveries by e-mail, through the operator's SMTP server."""

import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from api_gateway.deliveries.cutoff import cut_off_after
from api_gateway.deliveries.mail_text import build_mail
from api_gateway.deliveries.outcome import Message, NotDelivered
from api_gateway.deliveries.targets import TargetRefused, TargetRules
from compute_agent.contract.clock import Clock


@dataclass(frozen=True)
class MailServer:
    """How to reach it.

    :param security: ``none``, ``starttls`` or ``tls``
    :param user: None: it asks for no login
    :param password_file: read at each login
    :param sender: the address that mails come from, and that bounces go to
    """

    host: str
    port: int
    security: str
    user: str | None
    password_file: str
    sender: str


class MailSender:
    """Implements :class:`api_gateway.deliveries.outcome.Sender`.

    :param timeout: seconds that a try may take, once the server has greeted
    :param context: whom to trust for TLS
    """

    def __init__(self, server: MailServer, rules: TargetRules, clock: Clock, *, timeout: float, context: ssl.SSLContext) -> None:
        self._server = server
        self._rules = rules
        self._clock = clock
        self._timeout = timeout
        self._context = context

    def send(self, message: Message) -> None:
        """:raises NotDelivered: the server did not take it."""
        recipient = message.subscription.target
        try:
            self._rules.check_address(recipient)  # what is allowed may have changed since
        except TargetRefused as error:
            raise NotDelivered(str(error)) from error
        mail = build_mail(message, sender=self._server.sender, at=self._clock.now())
        try:
            self._hand_over(mail, recipient)
        except smtplib.SMTPAuthenticationError as error:
            raise NotDelivered("The mail server refused the gateway's login.") from error
        except smtplib.SMTPRecipientsRefused as error:
            code = next(iter(error.recipients.values()))[0]
            raise NotDelivered(f"The mail server refused the recipient with {code}.") from error
        except smtplib.SMTPResponseException as error:
            raise NotDelivered(f"The mail server answered {error.smtp_code}.") from error
        except ssl.SSLError as error:
            raise NotDelivered("TLS with the mail server failed.") from error
        except (smtplib.SMTPException, OSError) as error:
            raise NotDelivered("The mail server cannot be reached, cannot do what is needed, or broke off.") from error

    def _hand_over(self, mail: EmailMessage, recipient: str) -> None:
        smtp = self._connect()
        try:
            with cut_off_after(self._timeout, lambda: smtp.sock):
                if self._server.security == "starttls":
                    smtp.starttls(context=self._context)
                if self._server.user is not None:
                    smtp.login(self._server.user, self._read_password())
                smtp.send_message(mail, from_addr=self._server.sender, to_addrs=[recipient])
                with suppress(smtplib.SMTPException, OSError):  # it has the mail already
                    smtp.quit()
        finally:
            smtp.close()

    def _connect(self) -> smtplib.SMTP:
        server = self._server
        if server.security == "tls":
            return smtplib.SMTP_SSL(server.host, server.port, timeout=self._timeout, context=self._context)
        return smtplib.SMTP(server.host, server.port, timeout=self._timeout)

    def _read_password(self) -> str:
        try:
            return Path(self._server.password_file).read_text().rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            raise NotDelivered("The gateway cannot read its password for the mail server.") from error
