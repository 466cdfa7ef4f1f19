"""A real HTTP receiver and a real SMTP server on loopback, which keep what they get and answer as they are told."""

import email
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


@dataclass(frozen=True)
class Call:
    """One request as it came, and what it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int


@dataclass
class Receiver:
    """Answers ``status`` with ``headers``; ``before_answer`` runs when a request was read."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    before_answer: Callable[[Any], None] = lambda link: None
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    server_names: list[str | None] = field(default_factory=list)
    """What clients asked for by TLS."""


@contextmanager
def run_receiver(receiver: Receiver, *, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """On 127.0.0.1, and with a context by https."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True  # the client ended in the midst of it
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.path, headers, body, receiver.status)
            receiver.calls.append(call)
            receiver.before_answer(self.connection)
            self.send_response(call.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(receiver.body)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # the client left first

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            """A client that does not trust us is none of our errors."""

    server = Server(("127.0.0.1", port), Handler)
    if context is not None:
        context.sni_callback = lambda link, name, context: receiver.server_names.append(name)  # type: ignore[assignment, misc]
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Mailbox:
    """Keeps mails; ``answer`` None: takes them, else says that instead."""

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    answer: str | None = None
    port: int = 0

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        if self.answer is not None:
            return self.answer
        mail = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"


class _Controller(Controller):
    def _trigger_server(self) -> None:
        """Its first visitor is itself, at the port that the system chose."""
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def run_mailbox(mailbox: Mailbox, *, port: int = 0, **options: Any) -> Iterator[Mailbox]:
    """On 127.0.0.1. ``options`` are aiosmtpd's (``tls_context``, ``authenticator``, …)."""
    controller = _Controller(mailbox, hostname="127.0.0.1", port=port, ready_timeout=60.0, **options)
    controller.start()
    mailbox.port = controller.port
    try:
        yield mailbox
    finally:
        controller.stop()
