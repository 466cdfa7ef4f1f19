"""What leaves for an agent: nothing that it does not take, and no argument that it does not know."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from oslo_config import cfg

from compute_agent.contract import versions
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.errors import Code
from compute_agent.contract.rpcapi import ComputeAgentAPI, NotDelivered, VersionTooLow
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options
from compute_agent.contract.versions import RpcVersion

PLANTED = "1.99"


class Sent:
    """An API over a transport that notes what would leave; ``caps`` says how much each host may be told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.caps: dict[str, str] = {}
        conf = cfg.ConfigOpts()
        conf(args=[], default_config_files=[])
        register_messaging_options(conf)
        conf.set_override("transport_url", "fake://")
        self.transport = create_rpc_transport(conf)
        self.api = ComputeAgentAPI(self.transport, self.caps.__getitem__)

    def note(self, _target: object, _context: object, message: dict[str, Any], **_options: object) -> object:
        self.messages.append(message)
        return DiagnosticsReply.refuse(Code.NOT_SUPPORTED, "planted").to_wire()


@pytest.fixture
def sent() -> Iterator[Sent]:
    sent = Sent()
    with mock.patch.object(sent.transport._driver, "send", sent.note):
        yield sent
    sent.transport.cleanup()


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release in which diagnostics may be asked for with their history."""
    later = RpcVersion(PLANTED, (), "planted", arguments=("get_diagnostics.history",))
    monkeypatch.setattr(versions, "RPC_HISTORY", (*versions.RPC_HISTORY, later))


@pytest.mark.usefixtures("planted")
def test_an_optional_argument_goes_to_those_who_know_it_only(sent: Sent) -> None:
    sent.caps.update(new=PLANTED, old=versions.RPC_API_VERSION)
    for host in ("new", "old"):
        sent.api.get_diagnostics(host, "server", timeout=1.0, history=True)

    assert [(message["version"], message["args"]) for message in sent.messages] == [
        (PLANTED, {"server": "server", "history": True}),
        (versions.get_version_of_method("get_diagnostics"), {"server": "server"}),
    ]


def test_without_an_optional_argument_the_lowest_version_is_named_that_has_the_method(sent: Sent) -> None:
    sent.caps["new"] = versions.RPC_API_VERSION
    sent.api.report_inventory("new")
    assert [message["version"] for message in sent.messages] == [versions.get_version_of_method("report_inventory")]


@pytest.mark.parametrize("cap", [versions.RPC_HISTORY[0].number, versions.NO_RPC_VERSION, "2.9"])
def test_what_a_host_does_not_take_is_refused_and_nothing_leaves(sent: Sent, cap: str) -> None:
    sent.caps["old"] = cap
    with pytest.raises(VersionTooLow, match=rf"host old may be told no more than RPC version {cap}; get_diagnostics needs") as refused:
        sent.api.get_diagnostics("old", "server", timeout=1.0)
    assert isinstance(refused.value, NotDelivered)
    assert sent.messages == []


def test_how_much_a_host_may_be_told_is_asked_each_time(sent: Sent) -> None:
    sent.caps["a"] = versions.NO_RPC_VERSION
    with pytest.raises(VersionTooLow):
        sent.api.report_inventory("a")
    sent.caps["a"] = versions.RPC_API_VERSION
    sent.api.report_inventory("a")
    assert len(sent.messages) == 1


@pytest.mark.usefixtures("planted")
def test_an_argument_that_came_with_its_method_has_no_row_of_its_own() -> None:
    assert versions.get_version_of_argument("get_diagnostics", "history") == PLANTED
    assert versions.get_version_of_argument("get_diagnostics", "server") == versions.get_version_of_method("get_diagnostics")
