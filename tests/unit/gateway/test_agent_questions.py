"""Questions to agents as they are written: what oslo.messaging's own client would send, in the version that the agent takes."""

from collections.abc import Mapping
from typing import Any

import pytest

from compute_agent.contract import versions
from compute_agent.contract.calls import AgentQuestions, VersionTooLow
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.errors import Code
from compute_agent.contract.models import BlackBoxChunk, PingReply
from compute_agent.contract.wire import WireModel
from tests.contract.recorded_rpc import record_rpc

HOST, SERVER, BOX = "compute-1", "11111111-2222-4333-8444-555555555555", "0" * 32
TIMEOUT = 3.0
REPLIES: Mapping[str, WireModel] = {
    "ping": PingReply(host=HOST, release="1.1.0", rpc_version="1.0", journal_id="journal", incarnation=1),
    "get_diagnostics": DiagnosticsReply.refuse(Code.NOT_SUPPORTED, "none"),
    "get_black_box": BlackBoxChunk(total=None),
}


class NotingLine:
    """Notes what goes over it, and answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any], float]] = []

    def ask(self, routing_key: str, message: Mapping[str, Any], timeout: float) -> Any:
        self.sent.append((routing_key, message, timeout))
        return REPLIES[message["method"]].to_wire()


@pytest.mark.parametrize("method", REPLIES)
def test_the_message_is_that_of_oslo_messaging(method: str) -> None:
    ask = {
        "ping": lambda calls: calls.ping(HOST, TIMEOUT),
        "get_diagnostics": lambda calls: calls.get_diagnostics(HOST, SERVER, timeout=TIMEOUT, history=True),
        "get_black_box": lambda calls: calls.get_black_box(HOST, BOX, "domain.xml", offset=7, timeout=TIMEOUT),
    }[method]
    recorded, _ = record_rpc({method: ask}, REPLIES)
    line = NotingLine()
    answer = ask(AgentQuestions(line))
    assert line.sent == [(f"{recorded[method]['topic']}.{HOST}", recorded[method]["message"], TIMEOUT)]
    assert answer == REPLIES[method]


def test_an_agent_that_does_not_know_the_method_is_not_asked() -> None:
    line = NotingLine()
    with pytest.raises(VersionTooLow, match=r"may be told no more than RPC version 1\.0"):
        AgentQuestions(line, lambda _host: versions.RPC_HISTORY[0].number).get_diagnostics(HOST, SERVER, timeout=TIMEOUT)
    assert line.sent == []
