"""What each role may do at a real broker: an agent everything that it needs for its own host, and nothing to any other."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kombu
import pytest
from amqp.exceptions import AccessRefused, AMQPError, PreconditionFailed
from oslo_config import cfg

from compute_agent.consumer import Disbelieved, Event, Senders, create_follower
from compute_agent.contract import versions
from compute_agent.contract.accounts import GATEWAY_ACCOUNT, build_agent_account, build_consumer_account
from compute_agent.contract.broker import Link
from compute_agent.contract.broker_definitions import build_definitions
from compute_agent.contract.models import PingReply
from compute_agent.contract.notifications import (
    DEAD_LETTER_QUEUE,
    EVENTS_EXCHANGE,
    HEARTBEAT_QUEUE,
    RECORDER_QUEUES,
    Notification,
    build_consumer_exchange,
)
from compute_agent.contract.publisher import Publisher
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.topics import EVENT_TOPIC, HEARTBEAT_ROUTING_KEY
from compute_agent.contract.transport import (
    CALL_TOPIC,
    RPC_EXCHANGE,
    RPC_TOPIC,
    create_rpc_transport,
    oslo_messaging,
    register_messaging_options,
)
from compute_agent.host_lock import HostLock, HostTaken
from compute_agent.rpc_servers import RpcServers
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE
from tests.stack.broker_events import PatientAddress

MINE, THEIRS = "host-x", "host-y"
CONSUMER, OTHER_CONSUMER = "dashboard", "pager"
OWN_QUEUE = build_consumer_exchange(CONSUMER).name
EVENT = Notification("m-1", "agent.up", "compute_agent.host-x", "info", "2026-01-01 00:00:00.000000", {"host": MINE})


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbitMQ]:
    """A node with accounts for two agents and the gateway, whose queues are there."""
    node = PrivateRabbitMQ(tmp_path_factory.mktemp("broker"), Ports(find_free_base()), hosts=(MINE, THEIRS))
    try:
        node.start()
        link = PatientAddress(node.gateway_url, name="gateway").open_link(heartbeat=0)
        for queue in (*RECORDER_QUEUES, HEARTBEAT_QUEUE, DEAD_LETTER_QUEUE):
            queue(link.channel()).declare()
        link.close()
        yield node
    finally:
        node.stop()


class Endpoint:
    """An agent's endpoint that notes what it is told, and answers what it is asked."""

    target = oslo_messaging.Target(version=versions.RPC_API_VERSION)

    def __init__(self, host: str) -> None:
        self.told = threading.Event()
        self._host = host

    def report_inventory(self, ctxt: Any) -> None:
        self.told.set()

    def ping(self, ctxt: Any) -> dict[str, Any]:
        return PingReply(host=self._host, release="1", rpc_version="1.0", journal_id="j", incarnation=1).to_wire()


def create_transport(url: str) -> oslo_messaging.Transport:
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    conf([], default_config_files=[])
    conf.set_override("transport_url", url)
    return create_rpc_transport(conf)


@pytest.fixture(scope="module", autouse=True)
def agents(broker: PrivateRabbitMQ) -> Iterator[dict[str, Endpoint]]:
    """Both hosts' RPC servers, as production starts them, each with its own account."""
    endpoints = {host: Endpoint(host) for host in (MINE, THEIRS)}
    transports = {host: create_transport(broker.build_agent_url(host)) for host in endpoints}
    servers = [RpcServers(transports[host], host, endpoint) for host, endpoint in endpoints.items()]  # type: ignore[arg-type]
    for server in servers:
        server.start()
    yield endpoints
    for server in servers:
        server.stop()
        server.wait()
    for transport in transports.values():
        transport.cleanup()


@pytest.fixture
def link(broker: PrivateRabbitMQ) -> Iterator[Link]:
    """What a hostile agent of ``MINE`` has: its account."""
    link = PatientAddress(broker.build_agent_url(MINE), name="hostile").open_link(heartbeat=0)
    yield link
    link.collect()


def test_an_agent_is_told_and_asked_and_answers(broker: PrivateRabbitMQ, agents: dict[str, Endpoint]) -> None:
    transport = create_transport(broker.gateway_url)
    caster = ComputeAgentAPI(transport)
    caster.report_inventory(MINE)
    assert agents[MINE].told.wait(10 * PATIENCE)
    assert not agents[THEIRS].told.is_set()
    assert caster.ping(MINE, timeout=10 * PATIENCE).host == MINE
    transport.cleanup()


def test_an_agent_tells_events_and_heartbeats_in_its_own_name(broker: PrivateRabbitMQ) -> None:
    publisher = Publisher(PatientAddress(broker.build_agent_url(MINE), name="agent"))
    publisher.publish([EVENT])
    publisher.publish_heartbeat(EVENT)
    publisher.close()
    senders: list[str] = []
    gateway = PatientAddress(broker.gateway_url, name="gateway").open_link(heartbeat=0)
    for queue in (RECORDER_QUEUES[0], HEARTBEAT_QUEUE):
        gateway.channel().basic_consume(queue.name, callback=lambda message: senders.append(message.properties["user_id"]), no_ack=True)
    while len(senders) < 2:
        gateway.drain_events(timeout=10 * PATIENCE)
    assert senders == [build_agent_account(MINE)] * 2
    gateway.close()


def test_an_agent_holds_its_hosts_lock_against_a_second_one(broker: PrivateRabbitMQ) -> None:
    first, second = (HostLock(PatientAddress(broker.build_agent_url(MINE), name="agent"), MINE) for _ in range(2))
    first.acquire()
    with pytest.raises(HostTaken):
        second.acquire()
    first.drop()


def test_an_agent_cannot_hold_another_hosts_lock(broker: PrivateRabbitMQ) -> None:
    with pytest.raises(AccessRefused):
        HostLock(PatientAddress(broker.build_agent_url(MINE), name="agent"), THEIRS).acquire()


FORBIDDEN_QUEUES = [
    f"{RPC_TOPIC}.{THEIRS}",
    f"{CALL_TOPIC}.{THEIRS}",
    RECORDER_QUEUES[0].name,
    HEARTBEAT_QUEUE.name,
    DEAD_LETTER_QUEUE.name,
    f"reply_{uuid.UUID(int=1).hex}",
]


ATTEMPTS = ["get", "consume", "purge", "delete", "declare", "bind"]


def lay_hold(link: Link, queue: str, attempt: str, exchange: str, key: str) -> None:
    """One of ``ATTEMPTS``; a binding would be to ``exchange`` with ``key``."""
    channel = link.channel()
    attempts: dict[str, Callable[[], object]] = {
        "get": lambda: channel.basic_get(queue),
        "consume": lambda: channel.basic_consume(queue, callback=print),
        "purge": lambda: channel.queue_purge(queue),
        "delete": lambda: channel.queue_delete(queue),
        "declare": lambda: channel.queue_declare(queue, durable=True, auto_delete=False),
        "bind": lambda: channel.queue_bind(queue, exchange, key),
    }
    attempts[attempt]()


@pytest.mark.parametrize("queue", FORBIDDEN_QUEUES)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_agent_has_no_hold_of_queues_that_are_not_its_own(link: Link, queue: str, attempt: str) -> None:
    with pytest.raises(AccessRefused):
        lay_hold(link, queue, attempt, RPC_EXCHANGE, f"{RPC_TOPIC}.{MINE}")


@pytest.mark.parametrize("queue", [f"{RPC_TOPIC}.{MINE}", f"{RPC_TOPIC}_fanout_{'0' * 32}"])
@pytest.mark.parametrize(
    ("exchange", "key"),
    [
        (RPC_EXCHANGE, f"{RPC_TOPIC}.{THEIRS}"),
        (RPC_EXCHANGE, f"{CALL_TOPIC}.{THEIRS}"),
        (RPC_EXCHANGE, f"{RPC_TOPIC}.*"),
        (RPC_EXCHANGE, "#"),
        (EVENTS_EXCHANGE.name, "notifications.info"),
        (EVENTS_EXCHANGE.name, HEARTBEAT_ROUTING_KEY),
        ("crashcart.dead", ""),
    ],
)
def test_an_agent_cannot_listen_in_on_what_others_are_told_or_tell(link: Link, queue: str, exchange: str, key: str) -> None:
    if "fanout" in queue:
        link.channel().queue_declare(queue, exclusive=True)
    with pytest.raises(AccessRefused):
        link.channel().queue_bind(queue, exchange, key)


def test_an_agent_cannot_make_queues_or_exchanges_of_its_own(link: Link) -> None:
    with pytest.raises(AccessRefused):
        link.channel().queue_declare("stock")
    with pytest.raises(AccessRefused):
        link.channel().exchange_declare("stock", "fanout")
    with pytest.raises(AccessRefused):
        link.channel().exchange_delete(EVENTS_EXCHANGE.name)
    with pytest.raises(AccessRefused):
        link.channel().exchange_bind(RPC_EXCHANGE, EVENTS_EXCHANGE.name, "#")


def send(link: Link, exchange: str, key: str, **properties: Any) -> None:
    channel = link.channel()
    channel.confirm_select()
    channel.basic_publish_confirm(channel.prepare_message(b"{}", properties=properties), exchange=exchange, routing_key=key)


@pytest.mark.parametrize(
    ("exchange", "key"),
    [
        (RPC_EXCHANGE, f"{RPC_TOPIC}.{THEIRS}"),
        (f"{RPC_TOPIC}_fanout_of_{THEIRS}", ""),
        ("crashcart.dead", ""),
        (EVENTS_EXCHANGE.name, "notifications.fake"),
        (EVENTS_EXCHANGE.name, "#"),
    ],
)
def test_an_agent_casts_nothing_and_publishes_nothing_but_events(link: Link, exchange: str, key: str) -> None:
    with pytest.raises(AMQPError) as refused:
        send(link, exchange, key)
    assert refused.value.reply_code in (403, 404)


@pytest.mark.parametrize("account", [build_agent_account(THEIRS), "gateway", "crashcart"])
def test_nobody_speaks_in_anothers_name(link: Link, account: str) -> None:
    with pytest.raises(PreconditionFailed):
        send(link, EVENTS_EXCHANGE.name, "notifications.info", user_id=account)


def test_the_gateway_takes_nothing_out_of_an_agents_queues(broker: PrivateRabbitMQ) -> None:
    link = PatientAddress(broker.gateway_url, name="gateway").open_link(heartbeat=0)
    with pytest.raises(AccessRefused):
        link.channel().basic_get(f"{RPC_TOPIC}.{MINE}")
    with pytest.raises(AccessRefused):
        link.channel().queue_delete(f"{RPC_TOPIC}.{MINE}")
    link.collect()


def test_no_role_may_set_policies_or_make_accounts(broker: PrivateRabbitMQ) -> None:
    """RabbitMQ gives that to tagged accounts only."""
    tags = dict(line.split("\t") for line in broker.ctl("list_users").splitlines()[1:])
    roles = {"gateway", build_agent_account(MINE), build_agent_account(THEIRS)}
    assert {account: tags[account] for account in roles} == dict.fromkeys(roles, "[]")


def test_who_may_publish_a_reply_reaches_any_queue_which_is_why_casts_are_signed(broker: PrivateRabbitMQ, link: Link) -> None:
    """Through the exchange without a name. Should a later RabbitMQ be able to forbid it, this is to be told in doc/security.rst."""
    send(link, "", f"{CALL_TOPIC}.{THEIRS}")
    with kombu.Connection(broker.url) as connection:
        assert connection.channel().queue_declare(f"{CALL_TOPIC}.{THEIRS}", passive=True).consumer_count == 1


@pytest.fixture(scope="module")
def consumers(broker: PrivateRabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of two consumers, whose accounts came as an operator brings them, beside queues that are there."""
    path: Path = tmp_path_factory.mktemp("consumers") / "definitions.json"
    passwords = {name: uuid.uuid4().hex for name in (CONSUMER, OTHER_CONSUMER)}
    path.write_text(json.dumps(build_definitions({}, {}, passwords)))
    broker.ctl("import_definitions", str(path))
    return {name: f"rabbit://{build_consumer_account(name)}:{passwords[name]}@127.0.0.1:{broker.ports.amqp}/" for name in passwords}


@pytest.fixture
def consumer_link(consumers: dict[str, str]) -> Iterator[Link]:
    link = PatientAddress(consumers[CONSUMER], name="consumer").open_link(heartbeat=0)
    yield link
    link.collect()


class NotingListener:
    """An oslo.messaging listener's endpoint."""

    def __init__(self) -> None:
        self.heard = threading.Event()

    def info(self, _context: object, *_told: object) -> None:
        self.heard.set()


@pytest.mark.parametrize("source", [EVENTS_EXCHANGE.name, OWN_QUEUE])
def test_a_consumer_hears_events_on_a_queue_of_its_own(broker: PrivateRabbitMQ, consumer_link: Link, source: str) -> None:
    channel = consumer_link.channel()
    heard: list[str] = []
    name = f"{OWN_QUEUE}.{uuid.uuid4().hex}"
    channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-expires": 60_000})
    channel.queue_bind(name, source, f"{EVENT_TOPIC}.#")
    channel.basic_consume(name, callback=lambda message: heard.append(message.properties["user_id"]), no_ack=True)
    publisher = Publisher(PatientAddress(broker.build_agent_url(MINE), name="agent"))
    publisher.publish([EVENT])
    publisher.close()
    while not heard:
        consumer_link.drain_events(timeout=10 * PATIENCE)
    assert heard == [build_agent_account(MINE)]


def test_a_listener_of_oslo_messaging_needs_no_more_than_a_consumers_account(broker: PrivateRabbitMQ, consumers: dict[str, str]) -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    transport = oslo_messaging.get_notification_transport(conf, url=consumers[CONSUMER])
    conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")
    endpoint = NotingListener()
    target = oslo_messaging.Target(exchange=OWN_QUEUE, topic=EVENT_TOPIC)
    listener = oslo_messaging.get_notification_listener(transport, [target], [endpoint], executor="threading", pool=OWN_QUEUE)
    listener.start()
    publisher = Publisher(PatientAddress(broker.build_agent_url(MINE), name="agent"))
    publisher.publish([EVENT])
    publisher.close()
    assert endpoint.heard.wait(10 * PATIENCE)
    listener.stop()
    listener.wait()
    transport.cleanup()


def test_a_consumer_that_asks_for_it_believes_of_a_host_its_own_account_only(broker: PrivateRabbitMQ, consumers: dict[str, str]) -> None:
    def publish(state: str) -> None:
        if not state.startswith("following"):
            return  # the broker was slow to answer, and is asked again
        for host in (THEIRS, MINE):
            publisher = Publisher(PatientAddress(broker.build_agent_url(host), name="agent"))
            publisher.publish([replace(EVENT, message_id=f"by-{host}")])
            publisher.close()

    follower = create_follower(consumers[CONSUMER], senders=Senders([GATEWAY_ACCOUNT]), on_state=publish)
    following = follower.follow()
    forged, honest = next(following), next(following)
    follower.stop()
    assert list(following) == []
    assert isinstance(forged, Disbelieved)
    assert forged.sender == build_agent_account(THEIRS)
    assert isinstance(honest, Event)
    assert (honest.sender, honest.notification.message_id) == (build_agent_account(MINE), f"by-{MINE}")


@pytest.mark.parametrize(
    ("exchange", "key"),
    [
        ("", f"{RPC_TOPIC}.{MINE}"),
        ("", RECORDER_QUEUES[0].name),
        (RPC_EXCHANGE, f"{RPC_TOPIC}.{MINE}"),
        (EVENTS_EXCHANGE.name, "notifications.info"),
        (EVENTS_EXCHANGE.name, HEARTBEAT_ROUTING_KEY),
        (build_consumer_exchange(OTHER_CONSUMER).name, "notifications.info"),
        ("crashcart.dead", ""),
        ("amq.topic", "notifications.info"),
    ],
)
def test_a_consumer_neither_casts_nor_publishes(consumer_link: Link, exchange: str, key: str) -> None:
    with pytest.raises(AccessRefused):
        send(consumer_link, exchange, key)


@pytest.mark.parametrize(
    "queue",
    [f"{RPC_TOPIC}.{MINE}", RECORDER_QUEUES[0].name, HEARTBEAT_QUEUE.name, f"{build_consumer_exchange(OTHER_CONSUMER).name}.q", "stock"],
)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_consumer_has_no_hold_of_others_queues(consumer_link: Link, queue: str, attempt: str) -> None:
    with pytest.raises(AccessRefused):
        lay_hold(consumer_link, queue, attempt, EVENTS_EXCHANGE.name, f"{EVENT_TOPIC}.info")


@pytest.mark.parametrize(
    ("source", "key"),
    [(EVENTS_EXCHANGE.name, HEARTBEAT_ROUTING_KEY), (EVENTS_EXCHANGE.name, "#"), (RPC_EXCHANGE, "#"), ("crashcart.dead", "")],
)
def test_a_consumer_hears_nothing_but_events(consumer_link: Link, source: str, key: str) -> None:
    channel = consumer_link.channel()
    channel.queue_declare(f"{OWN_QUEUE}.curious", exclusive=True)
    with pytest.raises(AccessRefused):
        channel.queue_bind(f"{OWN_QUEUE}.curious", source, key)


def test_a_consumer_leads_nothing_of_its_own_into_others_exchanges(consumer_link: Link) -> None:
    """By what it declares: where its queue's dead letters go, and what its exchange passes on."""
    for arguments in ({"x-dead-letter-exchange": EVENTS_EXCHANGE.name}, {"x-dead-letter-exchange": ""}):
        with pytest.raises(AccessRefused):
            consumer_link.channel().queue_declare(f"{OWN_QUEUE}.leak", exclusive=True, arguments=arguments)
    with pytest.raises(AccessRefused):
        consumer_link.channel().exchange_declare(f"{OWN_QUEUE}.leak", "fanout", arguments={"alternate-exchange": EVENTS_EXCHANGE.name})
    with pytest.raises(AccessRefused):
        consumer_link.channel().exchange_bind(EVENTS_EXCHANGE.name, OWN_QUEUE, "#")
    for exchange in (EVENTS_EXCHANGE.name, RPC_EXCHANGE):
        with pytest.raises(AccessRefused):
            consumer_link.channel().exchange_delete(exchange)


def test_declaring_an_exchange_takes_the_right_to_delete_it(consumer_link: Link) -> None:
    """Even where it exists, unless it is declared passively, which oslo.messaging's servers do not. Were that otherwise, no agent
    would need any right to the exchange of casts; see doc/security.rst."""
    consumer_link.channel().exchange_declare(RPC_EXCHANGE, "topic", passive=True)
    with pytest.raises(AccessRefused):
        consumer_link.channel().exchange_declare(RPC_EXCHANGE, "topic", durable=True, auto_delete=False)
