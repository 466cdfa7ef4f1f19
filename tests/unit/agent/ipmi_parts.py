"""A BMC in memory for tests of what is said to one: conversations are carried out against it, without a network."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

from compute_agent.drivers.ipmi.exchange import Conversation, NoAnswer, Request, Response

T = TypeVar("T")

SERVER = "6f70656e-0000-4000-8000-000000000001"
START = 1_767_225_600
"""The BMC's clock at first: 2026-01-01, as :class:`tests.fakes.FakeClock`'s."""
CHASSIS_STATUS, CHASSIS_CONTROL = (0x00, 0x01), (0x00, 0x02)
DEVICE_ID, RESET_TIMER, SET_TIMER, GET_TIMER = (0x06, 0x01), (0x06, 0x22), (0x06, 0x24), (0x06, 0x25)
SDR_INFO, SDR_RESERVE, SDR_GET = (0x0A, 0x20), (0x0A, 0x22), (0x0A, 0x23)
SEL_INFO, SEL_RESERVE, SEL_GET, SEL_TIME = (0x0A, 0x40), (0x0A, 0x42), (0x0A, 0x43), (0x0A, 0x48)
READING, POWER_READING = (0x04, 0x2D), (0x2C, 0x02)

Answer = Response | Callable[[bytes], Response] | None
"""A response, how one is made of the request's data, or None: silence."""


def event(stamp: int, sensor_type: int, *event_data: int, event_type: int = 0x6F, number: int = 0x01) -> bytes:
    """A system event record (IPMI 2.0, table 32-1) but for its id."""
    padded = bytes(event_data).ljust(3, b"\xff")
    return bytes([0x02]) + stamp.to_bytes(4, "little") + bytes([0x20, 0x00, 0x04, sensor_type, number, event_type]) + padded


@dataclass
class EventLog:
    """A BMC's event log: numbers count up, the oldest goes where ``capacity`` is reached, and it keeps when something was erased."""

    capacity: int = 100
    records: dict[int, bytes] = field(default_factory=dict)
    last_number: int = 0
    erased: int = 0
    full: bool = False

    def append(self, content: bytes) -> None:
        assert len(content) == 14
        self.last_number = self.last_number % 0xFFFE + 1
        self.records[self.last_number] = content
        while len(self.records) > self.capacity:
            del self.records[next(iter(self.records))]

    def clear(self, now: int) -> None:
        self.records.clear()
        self.last_number, self.erased = 0, now

    def delete(self, position: int, now: int) -> None:
        del self.records[list(self.records)[position]]
        self.erased = now

    def renumber(self) -> None:
        self.records = {number + 1: content for number, content in enumerate(self.records.values())}
        self.last_number = len(self.records)


class FakeBmc:
    """Answers requests as a BMC does. ``answers`` overrides what it says to a command; ``asked`` is every request that it got."""

    def __init__(self) -> None:
        self.on = True
        self.timer = bytes([0x04, 0x00, 0x00, 0x00, 0x00, 0x00])
        self.log = EventLog()
        self.now = START
        self.sdr: dict[int, bytes] = {}
        self.readings: dict[int, bytes] = {}
        self.answers: dict[tuple[int, int], Answer] = {}
        self.asked: list[Request] = []
        self.sdr_version = 0
        self.needs_reservation = False
        self._reservation = 0

    @property
    def commands(self) -> list[tuple[int, int]]:
        return [(request.netfn, request.command) for request in self.asked]

    def converse(self, conversation: Conversation[T]) -> T:
        """Carry out a conversation and return its result."""
        try:
            request = next(conversation)
            while True:
                self.asked.append(request)
                request = self._reply(conversation, request)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _reply(self, conversation: Generator[Request, Response, T], request: Request) -> Request:
        key = (request.netfn, request.command)
        answer = self.answers.get(key, self._answer)
        if answer is None:
            return conversation.throw(NoAnswer("nothing came within 1.0 s"))
        if isinstance(answer, Response):
            return conversation.send(answer)
        if answer == self._answer:
            return conversation.send(self._answer_to(key, request.data))
        return conversation.send(answer(request.data))

    def _answer(self, fields: bytes) -> Response:
        raise AssertionError("only a mark")

    def _answer_to(self, key: tuple[int, int], fields: bytes) -> Response:
        if key == CHASSIS_STATUS:
            return Response(0, bytes([0x01 if self.on else 0x00, 0x00, 0x00]))
        if key == CHASSIS_CONTROL and fields == b"\x04":
            return Response(0)
        if key == DEVICE_ID:
            return Response(0, bytes.fromhex("2001 0219 02 9f 000000 0000".replace(" ", "")))
        if key == GET_TIMER:
            return Response(0, self.timer)
        if key == SET_TIMER:
            return self._set_timer(fields)
        if key == RESET_TIMER:
            self.timer = bytes([self.timer[0] | 0x40]) + self.timer[1:]
            return Response(0)
        if key[0] == 0x0A:
            return self._answer_storage(key, fields)
        if key == READING:
            reading = self.readings.get(fields[0])
            return Response(0xCB) if reading is None else Response(0, reading)
        return Response(0xC1)

    def _set_timer(self, fields: bytes) -> Response:
        running = self.timer[0] & 0x40 if fields[0] & 0x40 else 0
        self.timer = bytes([(fields[0] & 0x87) | running, fields[1], fields[2], self.timer[3] & ~fields[3], *fields[4:6]])
        return Response(0)

    def _answer_storage(self, key: tuple[int, int], fields: bytes) -> Response:
        log = self.log
        if key == SEL_INFO:
            info = b"\x51" + len(log.records).to_bytes(2, "little") + b"\x00\x10" + self.now.to_bytes(4, "little")
            return Response(0, info + log.erased.to_bytes(4, "little") + bytes([0x82 if log.full else 0x02]))
        if key == SEL_TIME:
            return Response(0, self.now.to_bytes(4, "little"))
        if key in (SEL_RESERVE, SDR_RESERVE):
            self._reservation += 1
            return Response(0, self._reservation.to_bytes(2, "little"))
        if key == SEL_GET:
            return self._get_entry(fields)
        if key == SDR_INFO:
            return Response(
                0, b"\x51" + len(self.sdr).to_bytes(2, "little") + b"\x00\x10" + self.sdr_version.to_bytes(8, "little") + b"\x02"
            )
        if key == SDR_GET:
            number, offset, count = int.from_bytes(fields[2:4], "little"), fields[4], fields[5]
            return self._get_piece(self.sdr, number, offset, count)
        return Response(0xC1)

    def _get_entry(self, fields: bytes) -> Response:
        if self.needs_reservation and int.from_bytes(fields[:2], "little") != self._reservation:
            return Response(0xC5)
        numbers = list(self.log.records)
        wanted = int.from_bytes(fields[2:4], "little")
        if not numbers:
            return Response(0xCB)
        number = numbers[0] if wanted == 0 else numbers[-1] if wanted == 0xFFFF else wanted
        if number not in self.log.records:
            return Response(0xCB)
        position = numbers.index(number)
        following = numbers[position + 1] if position + 1 < len(numbers) else 0xFFFF
        return Response(0, following.to_bytes(2, "little") + number.to_bytes(2, "little") + self.log.records[number])

    @staticmethod
    def _get_piece(records: dict[int, bytes], number: int, offset: int, count: int) -> Response:
        numbers = list(records)
        number = numbers[0] if number == 0 and numbers else number
        if number not in records:
            return Response(0xCB)
        position = numbers.index(number)
        following = numbers[position + 1] if position + 1 < len(numbers) else 0xFFFF
        return Response(0, following.to_bytes(2, "little") + records[number][offset : offset + count])
