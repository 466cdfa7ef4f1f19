"""SQLite under several API workers and the engine at once: nobody is told "database is locked", nothing is lost."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import pytest

from devstack.api_client import ApiClient
from devstack.ports import find_free_base
from devstack.real_parts import list_missing_parts, may_skip_real_tests
from devstack.services import wait_until
from devstack.stack import Stack
from tests.databases import PATIENT

SECONDS = 60.0 if os.environ.get("CRASHCART_TEST_ALL") else 15.0
WORKERS = 4
CLIENTS = 8
SERVERS = 64


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    missing = list_missing_parts()
    if missing and may_skip_real_tests():
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"not installed: {', '.join(missing)}"
    system = Stack(
        tmp_path_factory.mktemp("contention"),
        find_free_base(),
        guests=(),
        holdoff=0,
        agent_options={"agent": {"driver": "fake"}, "fake": {"servers": SERVERS, "surviving": SERVERS}},
        gateway_options={
            "api": {"workers": WORKERS, "crash_dump_deadline": 300},
            "database": {"busy_timeout": PATIENT},
        },
    )
    try:
        system.up()
        yield system
    finally:
        system.down()


def test_api_workers_and_engine_share_one_sqlite_file(stack: Stack) -> None:
    """Eight clients post and read for the whole time; each 202 ends in the one way that the driver gave it."""
    wait_until(lambda: len(stack.client.list_servers()) == SERVERS, 30.0, "the fake servers to be listed")
    servers = [server["id"] for server in stack.client.list_servers()]
    end = time.monotonic() + SECONDS

    def post_and_read(number: int) -> list[str]:
        client = ApiClient(stack.url)
        accepted = []
        for server in cycle(servers[number::CLIENTS]):
            if time.monotonic() > end:
                return accepted
            answer = client.trigger_crash_dump(server)
            assert answer.status in (202, 409), answer.text
            if answer.status == 202:
                accepted.append(answer.request_id)
            assert client.get("/v2.1/servers/detail").status == 200
        raise AssertionError("unreachable: cycle does not end")

    with ThreadPoolExecutor(CLIENTS) as pool:
        accepted = [action for batch in pool.map(post_and_read, range(CLIENTS)) for action in batch]
    assert len(accepted) > SECONDS
    for action_id in accepted:
        wait_until(lambda: stack.client.get_action(action_id)["state"] == "ended", 60.0, f"{action_id} to end")  # noqa: B023
        assert stack.client.get_action(action_id)["ending"] == "succeeded"
    for service in (stack.api, stack.engine):
        assert "database is locked" not in service.log.read_text()
    print(f"{len(accepted)} crash dumps in {SECONDS:g} s")
