"""TLS between all parts over a real broker, and to the API: verified against a CA file and a name, or not spoken at all."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from compute_agent.contract.broker import BROKER_ERRORS, BrokerAddress, find_tls
from compute_agent.contract.notifications import DEAD_LETTER_QUEUE, HEARTBEAT_QUEUE, RECORDER_QUEUES
from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options
from devstack.certificates import TlsFiles, make_certificate
from devstack.ports import Ports, find_free_base
from devstack.rabbitmq import PrivateRabbitMQ
from devstack.services import PATIENCE, Service, wait_until
from devstack.signing_keys import make_signing_options
from devstack.stack_config import HOST, Options, merge, write_agent_config, write_gateway_config
from tests.databases import PATIENT

ADDRESS = "127.0.0.1"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """For the broker and the API, of this address and no other name."""
    return make_certificate(tmp_path_factory.mktemp("tls"), ADDRESS)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Somebody else's, for the same address."""
    return make_certificate(tmp_path_factory.mktemp("stranger"), ADDRESS)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, files: TlsFiles) -> Iterator[PrivateRabbitMQ]:
    node = PrivateRabbitMQ(tmp_path_factory.mktemp("broker"), Ports(find_free_base()), hosts=(HOST,), tls=files)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def over_tls(broker: PrivateRabbitMQ, url: str, name: str = ADDRESS) -> str:
    """The same URL at the port that speaks TLS."""
    return url.replace(f"{ADDRESS}:{broker.ports.amqp}", f"{name}:{broker.ports.amqps}")


def create_conf(url: str, ca: Path | None) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    conf([], default_config_files=[])
    conf.set_override("transport_url", url)
    if ca is not None:
        conf.set_override("ssl", True, group="oslo_messaging_rabbit")
        conf.set_override("ssl_ca_file", str(ca), group="oslo_messaging_rabbit")
    return conf


def open_link(url: str, ca: Path | None) -> Any:
    return BrokerAddress(url, name="test", tls=find_tls(create_conf(url, ca))).open_link()


def test_a_link_is_encrypted_and_the_broker_is_who_it_should_be(broker: PrivateRabbitMQ, files: TlsFiles) -> None:
    link = open_link(over_tls(broker, broker.gateway_url), files.ca)
    assert isinstance(link.sock, ssl.SSLSocket)
    assert link.sock.version() in ("TLSv1.2", "TLSv1.3")
    for queue in (*RECORDER_QUEUES, HEARTBEAT_QUEUE, DEAD_LETTER_QUEUE):
        queue(link.channel()).declare()
    link.close()


def test_a_broker_with_a_strangers_certificate_gets_no_password(broker: PrivateRabbitMQ, stranger: TlsFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        open_link(over_tls(broker, broker.gateway_url), stranger.ca)
    assert isinstance(refused.value, BROKER_ERRORS), "it is tried again, as any broker that is away"


def test_a_broker_with_a_certificate_of_another_name_gets_no_password(broker: PrivateRabbitMQ, files: TlsFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        open_link(over_tls(broker, broker.gateway_url, "localhost"), files.ca)


def test_nobody_falls_back_to_plain_text(broker: PrivateRabbitMQ, files: TlsFiles) -> None:
    with pytest.raises(BROKER_ERRORS):
        open_link(broker.gateway_url, files.ca)
    with pytest.raises(BROKER_ERRORS):
        open_link(over_tls(broker, broker.gateway_url), None)


@pytest.mark.parametrize(("name", "of_stranger"), [(ADDRESS, True), ("localhost", False)])
def test_rpc_is_not_spoken_with_another_broker(
    broker: PrivateRabbitMQ, files: TlsFiles, stranger: TlsFiles, name: str, of_stranger: bool
) -> None:
    ca = stranger.ca if of_stranger else files.ca
    transport = create_rpc_transport(create_conf(over_tls(broker, broker.gateway_url, name), ca))
    with pytest.raises(BROKER_ERRORS, match="certificate verify failed"):
        ComputeAgentAPI(transport).report_inventory(HOST)
    transport.cleanup()


class System:
    """Agent, engine and API as processes, all of which speak TLS only."""

    def __init__(self, directory: Path, broker: PrivateRabbitMQ, files: TlsFiles) -> None:
        self.ports = broker.ports
        self._files = files
        agent_signing, gateway_signing = make_signing_options(directory / "keys")
        tls: Options = {"oslo_messaging_rabbit": {"ssl": True, "ssl_ca_file": files.ca}}
        write_agent_config(
            directory / "agent.conf",
            transport_url=over_tls(broker, broker.build_agent_url(HOST)),
            driver={"agent": {"driver": "fake"}, "fake": {"servers": 2}},
            state_path=directory / "agent",
            extra=merge(agent_signing, tls),
        )
        api: Options = {"api": {"tls_cert_file": files.certificate, "tls_key_file": files.key}}
        write_gateway_config(
            directory / "gateway.conf",
            transport_url=over_tls(broker, broker.gateway_url),
            ports=self.ports,
            state_path=directory / "gateway",
            wake_socket=directory / "wake.sock",
            extra=merge(gateway_signing, tls, api, {"database": {"busy_timeout": PATIENT}}),
        )
        subprocess.run([BIN / "crashcart-manage", "--config-file", directory / "gateway.conf", "db", "upgrade"], check=True)
        self._services = [
            Service(name, [str(BIN / name), "--config-file", str(directory / config)], env=dict(os.environ), log=directory / f"{name}.log")
            for name, config in [("crashcart-engine", "gateway.conf"), ("crashcart-api", "gateway.conf"), ("crashcart-agent", "agent.conf")]
        ]
        for service in self._services:
            service.start()

    def stop(self) -> None:
        for service in self._services:
            if service.is_running:
                service.stop()

    def connect(self, ca: Path, name: str = ADDRESS) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(name, self.ports.api, timeout=30 * PATIENCE, context=ssl.create_default_context(cafile=ca))

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = self.connect(self._files.ca)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else answer.headers
        finally:
            connection.close()

    def list_servers(self) -> list[dict[str, Any]]:
        with suppress(OSError):
            status, body = self.ask("GET", "/v2.1/servers/detail")
            return body["servers"] if status == 200 else []
        return []


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, broker: PrivateRabbitMQ, files: TlsFiles) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("system"), broker, files)
    try:
        wait_until(lambda: len(system.list_servers()) == 2, 120, "the API lists the agent's servers over TLS")
        yield system
    finally:
        system.stop()


def test_a_crash_dump_goes_all_the_way_over_tls(system: System, broker: PrivateRabbitMQ) -> None:
    server = next(server["id"] for server in system.list_servers() if server["status"] == "ACTIVE")
    status, action = system.ask("POST", f"/v1/servers/{server}/actions", {"kind": "trigger_crash_dump"})
    assert status == 202
    status, ended = system.ask("GET", f"/v1/actions/{action['id']}?wait=20")
    assert (status, ended["ending"]) == (200, "succeeded")
    connections = [line.split() for line in broker.ctl("list_connections", "user", "ssl").splitlines()[1:]]
    assert {user for user, _ in connections} == {"gateway", f"agent.{HOST}"}
    assert {encrypted for _, encrypted in connections} == {"true"}


def test_the_apis_own_links_lead_to_https(system: System) -> None:
    link = system.ask("GET", "/v2.1/")[1]["version"]["links"][0]["href"]
    assert link.startswith(f"https://{ADDRESS}:{system.ports.api}/")


def test_a_client_that_trusts_others_or_wants_another_name_is_not_answered(system: System, stranger: TlsFiles, files: TlsFiles) -> None:
    for connection in (system.connect(stranger.ca), system.connect(files.ca, "localhost")):
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", "/healthcheck")


def test_plain_http_is_not_answered(system: System) -> None:
    with socket.create_connection((ADDRESS, system.ports.api), timeout=10) as connection:
        connection.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"HTTP" not in connection.recv(100), "at most an alert of TLS"
