"""A BMC on the loopback interface with the protocol connected to it, and one that is only documents, for what needs no network."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import trustme
from oslo_config import cfg

from compute_agent.contract.clock import SystemClock
from compute_agent.drivers.bmc.protocol import Bmc, Secret, Target
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import Document
from compute_agent.drivers.redfish.errors import NOT_THERE, Refused, Unusable
from compute_agent.drivers.redfish.exchange import Answer
from compute_agent.drivers.redfish.protocol import create_protocol
from tests.redfish_server import ENTRIES, PASSWORD, USERNAME, SmallBmc, SmallLog, make_documents, serving

SERVER = "6e2f1c0a-0000-4000-8000-000000000001"
LIMIT = 30.0
SHORT = 0.5
_directory = tempfile.TemporaryDirectory()


@cache
def get_authority() -> tuple[trustme.CA, Path]:
    """One for all tests: making keys takes longer than using them."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    path = Path(_directory.name) / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, path


@dataclass
class Connected:
    """``small``: the BMC as the test makes it; ``bmc``: as the driver has it."""

    small: SmallBmc
    bmc: Bmc
    target: Target


@contextmanager
def connected(*, sessions: bool = False, **changes: Any) -> Iterator[Connected]:
    """``changes``: of the target."""
    authority, ca_file = get_authority()
    protocol = create_protocol(cfg.ConfigOpts(), SystemClock())
    with serving(authority) as small:
        if sessions:
            small.keep_sessions()
        target = Target(SERVER, "127.0.0.1", small.port, USERNAME, Secret(PASSWORD.encode()), ca_file=ca_file)
        bmc = protocol.connect(replace(target, **changes))
        try:
            yield Connected(small, bmc, target)
        finally:
            bmc.close()
            protocol.close()


class PaperVisit:
    """Answers from documents, without a network; what it is asked, is in ``asked``."""

    server = SERVER
    remaining = LIMIT

    def __init__(self, documents: Mapping[str, Any] | None = None, log: SmallLog | None = None) -> None:
        self.documents = dict(make_documents() if documents is None else documents)
        self.log = log or SmallLog()
        self.asked: list[str] = []

    def as_visit(self) -> Visit:
        return cast(Visit, self)

    def ask(self, method: str, path: str, body: Any = None, etag: str | None = None) -> Answer:
        self.asked.append(path)
        parts = urlsplit(path)
        if parts.path == ENTRIES and ENTRIES not in self.documents:
            query = parse_qs(parts.query)
            skip = int(query.get("$skip", ["0"])[0])
            return Answer(200, json.loads(json.dumps(self.log.list(ENTRIES, skip, "continued" in query))))
        if parts.path not in self.documents:
            raise Refused(404, "not found")
        return Answer(200, self.documents[parts.path])

    def get(self, path: str) -> Document:
        answer = self.ask("GET", path)
        if not isinstance(answer.body, Mapping):
            raise Unusable("no JSON object")
        return answer.body

    def find(self, path: str | None) -> Document | None:
        try:
            return None if path is None else self.get(path)
        except Refused as refusal:
            if refusal.status in NOT_THERE:
                return None
            raise
