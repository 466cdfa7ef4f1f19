"""A BMC's sensors: which there are (IPMI 2.0, section 33), and what they read now (section 35)."""

from dataclasses import dataclass, field, replace

from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import Sensor
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi.asking import check_length, read, read_coded
from compute_agent.drivers.ipmi.completion_codes import DONE, RESERVATION_CANCELLED, TOO_MANY_BYTES, is_unsupported, translate_read_refusal
from compute_agent.drivers.ipmi.exchange import Conversation, Request
from compute_agent.drivers.ipmi.sensor_records import SensorRecord, parse_sensor

_SENSOR, _STORAGE, _GROUP = 0x04, 0x0A, 0x2C
_GET_READING = 0x2D
_GET_REPOSITORY_INFO, _RESERVE_REPOSITORY, _GET_RECORD = 0x20, 0x22, 0x23
_DCMI, _GET_POWER_READING = 0xDC, 0x02
_FIRST, _LAST = 0x0000, 0xFFFF
_HEADER, _WHOLE = 5, 0xFF
_PIECE = 16
"""Bytes of a record that every BMC gives at once."""
_RESERVATIONS = 3
_MOST_RECORDS = 1024
_WHAT = "its sensor records"


@dataclass(frozen=True)
class Repository:
    """The sensors of a BMC, as far as they are known: kept from one reading to the next, because it has hundreds and tells them slowly.

    ``version``: its own times of the last change. ``next`` is the record to go on with, ``_LAST`` when all were read. ``whole``: this
    BMC gives whole records at once.
    """

    version: bytes
    sensors: tuple[SensorRecord, ...] = ()
    next: int = _FIRST
    read: frozenset[int] = field(default_factory=frozenset)
    whole: bool = True

    @property
    def is_complete(self) -> bool:
        return self.next == _LAST or len(self.read) >= _MOST_RECORDS


def begin_repository(version: bytes) -> Repository:
    """One of which nothing was read yet; an empty one is complete."""
    return Repository(version, next=_FIRST if any(version[:2]) else _LAST)


def read_version(server: str) -> Conversation[bytes]:
    """What changes when the sensors do (Get SDR Repository Info, table 33-3): how many records it has, and its
    times of the last addition and erasure.

    :raises ServerUnsupported, BackendUnavailable: there is none, or it cannot be read now.
    """
    answer = yield from read(server, Request(_STORAGE, _GET_REPOSITORY_INFO), _WHAT, least=14)
    return answer[1:3] + answer[5:13]


def read_record(server: str, repository: Repository) -> Conversation[Repository]:
    """The repository with its next record (Get SDR, section 33.12); one that is damaged or no sensor is passed over.

    :raises ServerUnsupported, BackendUnavailable: it cannot be read.
    """
    number = repository.next
    whole = repository.whole
    following, record = _LAST, b""
    if whole:
        response = yield from read_coded(server, _request_record(0, number, 0, _WHOLE), _WHAT)
        if response.code == DONE and len(response.data) > 2 + _HEADER - 1 and len(response.data) >= 2 + _HEADER + response.data[6]:
            following, record = int.from_bytes(response.data[:2], "little"), response.data[2:]
        elif response.code == DONE or response.code == RESERVATION_CANCELLED or response.code in TOO_MANY_BYTES:
            whole = False
        else:
            raise translate_read_refusal(server, _WHAT, response.code)
    if not whole:
        following, record = yield from _read_in_pieces(server, number)
    sensor = parse_sensor(record)
    known = repository.read | {number}
    return replace(
        repository,
        sensors=repository.sensors if sensor is None else (*repository.sensors, sensor),
        next=_LAST if following in known or following == _FIRST else following,
        read=known,
        whole=whole,
    )


def read_sensors(server: str, repository: Repository, clock: Clock, until: float) -> Conversation[tuple[list[Sensor], int]]:
    """What the sensors read now (Get Sensor Reading, section 35.14), and how many were not asked by ``until`` on the monotonic clock.

    One that is not there (a part that is not plugged in) is left out, one that cannot be read now has no value.
    """
    sensors: list[Sensor] = []
    for position, record in enumerate(repository.sensors):
        if clock.monotonic() >= until:
            return sensors, len(repository.sensors) - position
        response = yield from read_coded(server, Request(_SENSOR, _GET_READING, bytes([record.number])), "its sensors")
        if response.code == DONE and len(response.data) >= 2:
            sensors.append(record.read(response.data))
        elif not is_unsupported(response.code):
            sensors.append(Sensor(name=record.name, kind=record.kind, unit=record.unit))
    return sensors, 0


def find_power_watts(server: str) -> Conversation[float | None]:
    """What the machine draws now (DCMI 1.5, section 6.6.1, Get Power Reading); None: this BMC does not measure it."""
    response = yield from read_coded(server, Request(_GROUP, _GET_POWER_READING, bytes([_DCMI, 0x01, 0x00, 0x00])), "its power reading")
    answer = response.data
    if response.code != DONE or len(answer) < 18 or answer[0] != _DCMI or not answer[17] & 0x40:
        return None
    return float(int.from_bytes(answer[1:3], "little"))


def _read_in_pieces(server: str, number: int) -> Conversation[tuple[int, bytes]]:
    """A record, and the number of the next, for BMCs that do not give it at once; begun anew where the BMC takes the reservation away."""
    for _ in range(_RESERVATIONS):
        reserved = yield from read(server, Request(_STORAGE, _RESERVE_REPOSITORY), _WHAT, least=2)
        reservation = int.from_bytes(reserved[:2], "little")
        following, record, length = _LAST, b"", _HEADER
        while len(record) < length:
            count = min(_PIECE, length - len(record))
            response = yield from read_coded(server, _request_record(reservation, number, len(record), count), _WHAT)
            if response.code == RESERVATION_CANCELLED:
                break
            if response.code != DONE:
                raise translate_read_refusal(server, _WHAT, response.code)
            answer = check_length(server, response.data, _WHAT, 3)
            following = int.from_bytes(answer[:2], "little")
            record += answer[2 : 2 + count]
            if len(record) == _HEADER:
                length = _HEADER + record[4]
        else:
            return following, record
    raise BackendUnavailable(server, "the BMC's sensor records change while they are read")


def _request_record(reservation: int, number: int, offset: int, count: int) -> Request:
    return Request(_STORAGE, _GET_RECORD, reservation.to_bytes(2, "little") + number.to_bytes(2, "little") + bytes([offset, count]))
