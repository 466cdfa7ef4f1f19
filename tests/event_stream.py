"""A plain reader of server-sent events, as anybody would write one: it follows the API's redirect and reads lines."""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Message:
    """One message of the stream."""

    id: int
    event: str
    data: dict[str, Any]


class Refused(Exception):
    """The answer was no stream."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"{status}: {body!r}")
        self.status = status
        self.headers = headers


class EventStream:
    """One connection. Iterating ends with it; whoever is cut off goes on with a new one behind the last id."""

    def __init__(self, url: str, *, last_id: int | None = None, timeout: float = 10.0) -> None:
        """:raises Refused: see there. :raises OSError: nobody listens."""
        headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
        self._connection, self._answer = _ask(url, headers, timeout)
        if self._answer.status == 307:
            location = str(self._answer.headers["Location"])
            self._connection.close()
            self._connection, self._answer = _ask(location, headers, timeout)
        if self._answer.status != 200:
            body = self._answer.read()
            self._connection.close()
            raise Refused(self._answer.status, {name.lower(): value for name, value in self._answer.headers.items()}, body)
        self.comments: list[str] = []
        self.last_id: int | None = None
        """What a reader that is cut off comes again with."""

    def __iter__(self) -> Iterator[Message]:
        """:raises OSError, http.client.HTTPException: the connection was cut off, or nothing came within the timeout."""
        for fields in self._list_blocks():
            if "data" in fields:
                yield Message(int(fields["id"]), fields["event"], json.loads(fields["data"]))

    def read_up_to(self, position: int) -> None:
        """Until the stream has told that it is there, with an event or without one.

        :raises EOFError: it ended before.
        """
        for _ in self._list_blocks():
            if self.last_id == position:
                return
        raise EOFError(f"the stream ended at {self.last_id}")

    def _list_blocks(self) -> Iterator[dict[str, str]]:
        fields: dict[str, str] = {}
        for raw in self._answer:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                fields[name] = value
            else:
                if "id" in fields:
                    self.last_id = int(fields["id"])
                yield fields
                fields = {}

    def take(self, count: int) -> list[Message]:
        """The next so many."""
        messages = iter(self)
        return [next(messages) for _ in range(count)]

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def _ask(url: str, headers: dict[str, str], timeout: float) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
    return connection, connection.getresponse()
