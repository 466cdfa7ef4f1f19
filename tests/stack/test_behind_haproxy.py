"""As ``doc/scaling.rst`` has it: clients know one address; behind it are two gateways, a database server and a broker of three nodes."""

import os
import threading
from http.client import HTTPException
from pathlib import Path

import pytest

from devstack.api_client import ApiClient
from devstack.databases import DatabaseKind
from devstack.haproxy import PrivateHaproxy
from devstack.ports import Ports, find_free_base
from devstack.real_parts import may_skip_real_tests
from devstack.steps import NotInstalled
from tests.event_stream import EventStream, Refused
from tests.stack.broker_events import settle
from tests.stack.deployed import Traffic, check_endings, running_deployment

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif("CRASHCART_TEST_ALL" not in os.environ, reason="takes long: with --all"),
]
_NODES = 3
_LOST = frozenset({"RemoteDisconnected", "502", "503", "504"})
"""What a client may be told while those that serve die."""


def test_actions_go_on_while_an_api_an_engine_and_a_broker_node_die_at_once(tmp_path: Path) -> None:
    ports = Ports(find_free_base(_NODES), _NODES)
    haproxy = _make_haproxy(tmp_path / "haproxy", [ports.get_block(number) for number in range(2)])
    options = {"stream": {"public_url": haproxy.url}}
    with running_deployment(tmp_path, DatabaseKind.POSTGRESQL, nodes=_NODES, port=ports.base, gateway_options=options) as stack:
        haproxy.start()
        try:
            with Traffic(stack, [ApiClient(haproxy.url)]) as traffic, _Follower(haproxy.url) as follower:
                traffic.wait_flowing()
                settle(stack.broker)
                for number, node in enumerate(stack.brokers.nodes[1:]):
                    dead = [stack.apis[number], stack.engines[1 - number], node]
                    for part in dead:
                        part.kill()
                    took = traffic.wait_flowing()
                    print(f"{took:.1f} s until an action was carried out again")
                    for part in dead:
                        part.start()
                    traffic.wait_flowing()
            endings = check_endings(stack, traffic, tmp_path)
            told = follower.ended | follower.list_ended_since(ApiClient(haproxy.url))
        finally:
            haproxy.stop()
    print(f"{len(traffic.accepted)} accepted, ended {dict(endings)}; answers {dict(traffic.answers)}; {follower.streams} streams")
    assert endings["succeeded"] >= 6
    assert set(traffic.answers) - _LOST <= {"202", "409"}
    assert traffic.answers["202"] > 10 * sum(traffic.answers[name] for name in _LOST), traffic.answers
    assert follower.positions == sorted(set(follower.positions)), "told twice, or not in order"
    assert set(traffic.accepted) <= told, "missed"


class _Follower:
    """Reads the event stream through haproxy, and comes again behind what it has when a stream ends."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/events/stream"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self.positions: list[int] = []
        self.ended: set[str] = set()
        self.streams = 0

    def __enter__(self) -> "_Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def list_ended_since(self, client: ApiClient) -> set[str]:
        """Actions whose ending was recorded after the last event that was read."""
        last = self.positions[-1]
        events = client.get(f"/v1/events?after={last}&limit=1000").body["events"]
        return {event["action_id"] for event in events if event["type"] == "action.ended"}

    def _follow(self) -> None:
        last: int | None = None
        while not self._stop.is_set():
            try:
                stream = EventStream(self._url, last_id=last, timeout=2.0)
            except (OSError, HTTPException, Refused):
                self._stop.wait(0.1)
                continue
            self.streams += 1
            try:
                for message in stream:
                    self.positions.append(message.id)
                    if message.event == "action.ended":
                        self.ended.add(message.data["action_id"])
                    if self._stop.is_set():
                        break
            except (OSError, HTTPException):
                pass  # cut off, or nothing came for a while
            finally:
                last = stream.last_id if stream.last_id is not None else last
                stream.close()


def _make_haproxy(directory: Path, gateways: list[Ports]) -> PrivateHaproxy:
    try:
        return PrivateHaproxy(directory, gateways)
    except NotInstalled as error:
        if not may_skip_real_tests():
            raise
        pytest.skip(str(error))
