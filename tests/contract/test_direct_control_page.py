"""What doc/direct-control.rst and its example tell implementers of other control planes is what agents take."""

import ast
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from compute_agent.contract import topics, versions
from compute_agent.contract.models import ActionKind, ActionRequest
from compute_agent.contract.signing import CONTEXT_KEY, CastVerifier, canonical_json
from tests.contract import golden
from tests.fakes import FakeClock

DOC = Path(__file__).parents[2] / "doc"
PAGE = (DOC / "direct-control.rst").read_text()
EXAMPLE = ast.parse((DOC / "examples" / "direct_control.py").read_text())
BLOCKS = [block.strip() for block in re.findall(r"code-block:: json\n\n((?:    .*\n)+)", PAGE)]


def test_the_signature_of_the_page_holds_and_its_bytes_are_the_canonical_ones() -> None:
    statement, signature = BLOCKS
    said, sent = json.loads(statement), json.loads(signature)
    assert canonical_json(said) == statement.encode()
    assert said.items() >= {name: value for name, value in sent.items() if name != "signature"}.items()
    keys = {sent["issuer"]: (golden.SIGNING_KEY.public_key(),)}
    clock = FakeClock(datetime.fromisoformat(sent["signed_at"]))
    verifier = CastVerifier(keys, sent["host"], clock, cast_max_age=timedelta(hours=1))
    assert verifier.verify(said["method"], {CONTEXT_KEY: sent}, said["arguments"]) == "soc"
    assert ActionRequest.from_wire(said["arguments"]["action"]).host == sent["host"]


def test_every_key_of_an_action_is_explained() -> None:
    for key in ActionRequest.model_fields:
        assert f"``{key}``" in PAGE, key


@pytest.mark.parametrize("method", [method for row in versions.RPC_HISTORY for method in row.methods])
def test_every_verb_is_named(method: str) -> None:
    assert f"``{method}``" in PAGE


def test_the_versions_of_the_page_are_those_that_brought_the_verbs() -> None:
    for number, verbs in (
        ("1.0", [ActionKind.TRIGGER_CRASH_DUMP]),
        ("1.1", [ActionKind.COLLECT_DIAGNOSTICS, ActionKind.TAKE_HOST_DUMP]),
        ("1.2", [ActionKind.SET_WATCHDOG, ActionKind.REMOVE_WATCHDOG, ActionKind.RESUME]),
        ("1.3", [ActionKind.RESET_WATCHDOG_TIMER]),
        ("1.4", ["cancel_action"]),
    ):
        assert {versions.get_version_of_method(verb) for verb in verbs} == {number}
        assert f"({number})" in PAGE or f"``{number}``" in PAGE


def test_the_names_at_the_broker_are_the_contracts() -> None:
    for name in (f"``{topics.RPC_EXCHANGE}``", f"``{topics.RPC_TOPIC}.HOST``", f"``{topics.CALL_TOPIC}.HOST``", f"_context_{CONTEXT_KEY}"):
        assert name in PAGE


def test_the_example_sends_the_lowest_version_that_has_each_verb() -> None:
    (needs,) = (node.value for node in EXAMPLE.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDS")
    for method, number in ast.literal_eval(needs).items():
        assert number == versions.get_version_of_method(method)


def test_the_example_needs_nothing_of_crashcart() -> None:
    imported = {node.module or "" for node in ast.walk(EXAMPLE) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(EXAMPLE) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in imported if name.startswith(("compute_agent", "api_gateway", "devstack"))}
