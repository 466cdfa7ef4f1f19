"""A BMC in a few lines that logs in whoever knows its password, and answers what a test tells it to; or keeps silent, or talks nonsense."""

import hashlib
import hmac
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from compute_agent.drivers.bmc.protocol import Secret, Target
from compute_agent.drivers.ipmi.exchange import Response

USERNAME, PASSWORD = b"admin", b"not-a-secret"
CLOSE_SESSION, SET_PRIVILEGE = (6, 0x3C), (6, 0x3B)
_GUID = bytes(range(16))
_HASHES: dict[int, tuple[Any, int, int]] = {1: (hashlib.sha1, 12, 1), 3: (hashlib.sha256, 16, 4)}
Answer = Callable[[int, int, bytes], Response | None]


@dataclass
class _Session:
    client_id: bytes
    own_id: bytes
    authentication: int
    own_random: bytes = field(default_factory=lambda: os.urandom(16))
    client_random: bytes = b""
    role_and_name: bytes = b""
    key: bytes = b""
    sequence: int = 0

    def sign(self, key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, _HASHES[self.authentication][0]).digest()

    @property
    def signature_length(self) -> int:
        return _HASHES[self.authentication][1]


class Responder:
    """``answer`` gives the response to a request, None to keep silent. ``alter`` turns each packet that would be sent into those that are.

    ``requests``: all that came within sessions, (netfn, command, data). ``steps``: the payload types of the logins.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer: Answer = answer or (lambda netfn, command, content: Response(0))
        self.alter: Callable[[bytes], list[bytes]] = lambda packet: [packet]
        self.ciphers = {1, 3}
        self.offers_ipmi_2 = True
        self.login_refusal = 0
        self.requests: list[tuple[int, int, bytes]] = []
        self.steps: list[int] = []
        self.open_sessions = self.most_open_sessions = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self._sessions: dict[bytes, _Session] = {}
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def target(self, **changes: Any) -> Target:
        described: dict[str, Any] = {"username": USERNAME.decode(), "password": Secret(PASSWORD)} | changes
        return Target("server", "127.0.0.1", self.port, **described)

    def count(self, netfn: int, command: int) -> int:
        return [(request[0], request[1]) for request in self.requests].count((netfn, command))

    def wait_for(self, netfn: int, command: int, times: int = 1) -> None:
        """Until so many such requests came; fails the test when they do not."""
        with self._came:
            assert self._came.wait_for(lambda: self.count(netfn, command) >= times, 10), "no such request came"

    def close(self) -> None:
        """Close the port; may be repeated."""
        if not self._thread.is_alive():
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self.socket.close()

    def _serve(self) -> None:
        while True:
            packet, client = self.socket.recvfrom(4096)
            if not packet:
                return
            answer = self._take(packet)
            for altered in self.alter(answer) if answer else ():
                self.socket.sendto(altered, client)

    def _take(self, packet: bytes) -> bytes | None:
        if packet[4] != 6:
            self.steps.append(0)
            version = bytes([0x80, 0, 2]) if self.offers_ipmi_2 else bytes([4, 0, 0])
            message = _message(7, packet[18] >> 2, 0x38, Response(self.login_refusal, bytes([1]) + version + bytes(4)))
            return b"\x06\x00\xff\x07\x00" + bytes(8) + bytes([len(message)]) + message
        kind, payload = packet[5] & 0x3F, packet[16:]
        if kind == 0:
            return self._take_request(packet)
        self.steps.append(kind)
        reply = {0x10: self._open, 0x12: self._rakp2, 0x14: self._rakp4}[kind](payload)
        return _wrap(kind + 1, bytes(8), reply)

    def _open(self, asked: bytes) -> bytes:
        session = _Session(asked[4:8], os.urandom(4), asked[12])
        if session.authentication not in self.ciphers:
            return asked[:1] + b"\x11\0\0" + session.client_id
        self._sessions[session.own_id] = session
        return asked[:1] + b"\0\x04\0" + session.client_id + session.own_id + asked[8:32]

    def _rakp2(self, asked: bytes) -> bytes:
        session = self._sessions[asked[4:8]]
        session.client_random, role, name = asked[8:24], asked[24:25], asked[28:]
        if name != USERNAME:
            return asked[:1] + b"\x0d\0\0" + session.client_id
        session.role_and_name = role + bytes([len(name)]) + name
        text = session.client_id + session.own_id + session.client_random + session.own_random + _GUID + session.role_and_name
        return asked[:1] + b"\0\0\0" + session.client_id + session.own_random + _GUID + session.sign(PASSWORD, text)

    def _rakp4(self, asked: bytes) -> bytes:
        session = self._sessions[asked[4:8]]
        key = session.sign(PASSWORD, session.client_random + session.own_random + session.role_and_name)
        session.key = key
        self.open_sessions += 1
        self.most_open_sessions = max(self.most_open_sessions, self.open_sessions)
        return (
            asked[:1]
            + b"\0\0\0"
            + session.client_id
            + session.sign(key, session.client_random + session.own_id + _GUID)[: session.signature_length]
        )

    def _take_request(self, packet: bytes) -> bytes | None:
        session = self._sessions.get(packet[6:10])
        if session is None:
            return None
        length = struct.unpack("<H", packet[14:16])[0]
        message = _crypt(session, packet[16:32], packet[32 : 16 + length], encrypts=False)
        message = message[: -message[-1] - 1]
        netfn, sequence, command, content = message[1] >> 2, message[4] >> 2, message[5], message[6:-1]
        with self._came:
            self.requests.append((netfn, command, content))
            self._came.notify_all()
        if (netfn, command) == CLOSE_SESSION:
            self.open_sessions -= 1
        response = self.answer(netfn, command, content)
        return None if response is None else self.make_answer(session, netfn + 1, sequence, command, response)

    def make_answer(self, session: _Session, netfn: int, sequence: int, command: int, response: Response) -> bytes:
        session.sequence += 1
        message = _message(netfn, sequence, command, response)
        padding = -(len(message) + 1) % 16
        message += bytes(range(1, padding + 1)) + bytes([padding])
        vector = os.urandom(16)
        sealed = vector + _crypt(session, vector, message, encrypts=True)
        packet = _wrap(0xC0, session.client_id + struct.pack("<I", session.sequence), sealed)
        packet += b"\xff" * (-(len(packet) - 2) % 4)
        packet += bytes([-(len(sealed) + 12 - 2 + 4) % 4]) + b"\x07"
        key = session.sign(session.key, b"\x01" * 20)
        return packet + session.sign(key, packet[4:])[: session.signature_length]


def _crypt(session: _Session, vector: bytes, text: bytes, *, encrypts: bool) -> bytes:
    cipher = Cipher(algorithms.AES(session.sign(session.key, b"\x02" * 20)[:16]), modes.CBC(vector))
    context = cipher.encryptor() if encrypts else cipher.decryptor()
    return context.update(text) + context.finalize()


def _wrap(kind: int, numbers: bytes, payload: bytes) -> bytes:
    return b"\x06\x00\xff\x07\x06" + bytes([kind]) + numbers + struct.pack("<H", len(payload)) + payload


def _message(netfn: int, sequence: int, command: int, response: Response) -> bytes:
    head, body = bytes([0x81, netfn << 2]), bytes([0x20, sequence << 2, command, response.code]) + response.data
    return head + bytes([-sum(head) & 0xFF]) + body + bytes([-sum(body) & 0xFF])


@contextmanager
def responding(answer: Answer | None = None) -> Iterator[Responder]:
    responder = Responder(answer)
    try:
        yield responder
    finally:
        responder.close()
