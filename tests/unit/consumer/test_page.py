"""What the page for consumers shows is what is there."""

import re
import textwrap
from pathlib import Path

import pytest

import compute_agent.consumer
from compute_agent.consumer import create_temporary_queue
from compute_agent.contract.accounts import GATEWAY_ACCOUNT, build_gateway_permissions

DOC = Path(__file__).parents[3] / "doc"
PAGE = (DOC / "consuming.rst").read_text()


def test_the_program_on_the_page_is_the_example_that_the_tests_run() -> None:
    _, program = (DOC / "examples" / "listen_crashcart.py").read_text().split('"""\n\n', 1)
    assert textwrap.indent(program, "    ") in PAGE


def test_the_page_names_every_example() -> None:
    assert set(re.findall(r"doc/examples/(\w+\.py)", PAGE)) == {path.name for path in (DOC / "examples").glob("*.py")}


@pytest.mark.parametrize("name", compute_agent.consumer.__all__)
def test_what_is_exported_has_a_word_about_itself(name: str) -> None:
    assert (getattr(compute_agent.consumer, name).__doc__ or "").strip()


def test_the_gateways_account_may_have_a_temporary_queue() -> None:
    """So that on a gateway machine its configuration file is enough."""
    permissions, name = build_gateway_permissions(), create_temporary_queue(GATEWAY_ACCOUNT).name
    assert all(re.search(pattern, name) for pattern in (permissions.configure, permissions.write, permissions.read))
