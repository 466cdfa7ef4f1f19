"""Tell an agent what to do without crashcart's gateway, with plain oslo.messaging, and follow what comes of it on the topic::

    export CONTROL_URL=rabbit://controller.soc:password@broker:5672/
    python direct_control.py --key soc.key --host compute-1 --server 7f1c2d3e-4b5a-4697-8876-655443322110 trigger_crash_dump --follow
    python direct_control.py --key soc.key --host compute-1 --server 7f1c2d3e-… set_watchdog --model i6300esb --expiry-action reset

doc/direct-control.rst says what each part is for. Needs oslo.messaging, which brings kombu, and cryptography for the signature.
Exit codes: 0 succeeded; 1 failed or expired; 2 wrong command line; 3 unknown, or nothing was reported; 4 nothing was cast.
"""

import argparse
import base64
import hashlib
import json
import os
import ssl
import sys
import time
import uuid
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)  # before oslo_messaging is imported

import amqp  # noqa: E402
import kombu  # noqa: E402
import oslo_messaging  # noqa: E402
from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: E402
from oslo_config import cfg  # noqa: E402

NEEDS = {"report_inventory": "1.0", "trigger_crash_dump": "1.0", "set_watchdog": "1.2"}
"""The lowest RPC version that has each method: an agent of an older release refuses it."""
OUTCOMES = {True: "cast", False: "not delivered: the host has no queue; trying again", None: "perhaps delivered; casting the same again"}
CAST_AGAIN_SECONDS = 5
GRACE_SECONDS = 30
"""Beyond the deadline: two seconds of clocks, and the longest that a driver's call takes (a heartbeat's driver_bound)."""


class NothingCast(Exception):
    """The agent did not say what an action must say."""


def sign(key, issuer, host, method, arguments):
    """The RPC context of one cast; another one for each."""
    raw = key.public_key().public_bytes_raw()
    statement = {
        "v": 1,
        "issuer": issuer,
        "key_id": hashlib.sha256(raw).hexdigest()[:16],
        "host": host,
        "signed_at": datetime.now(UTC).isoformat(),
        "nonce": uuid.uuid4().hex,
    }
    said = json.dumps({**statement, "method": method, "arguments": arguments}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {"crashcart_signature": {**statement, "signature": base64.b64encode(key.sign(said.encode())).decode()}}


class Caster:
    """Casts to agents; signed if there is a key, whose file ISSUER.key is named as its owner is at the agents."""

    def __init__(self, url, *, key_file=None, ca_file=None):
        self._issuer = key_file.stem if key_file else None
        self._key = load_pem_private_key(key_file.read_bytes(), password=None) if key_file else None
        cfg.CONF([], default_config_files=[])
        self._transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=url)
        options = {"rabbit_quorum_queue": True}  # the exchange is durable, and must be declared so
        if ca_file:
            options |= {"ssl": True, "ssl_ca_file": str(ca_file)}
        for name, value in options.items():
            cfg.CONF.set_override(name, value, group="oslo_messaging_rabbit")
        self._client = oslo_messaging.get_rpc_client(
            self._transport,
            oslo_messaging.Target(exchange="crashcart", topic="compute_agent"),
            retry=0,
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),  # the broker says when there is no such queue
        )

    def cast(self, host, method, arguments, *, signed_for=None):
        """True: it is with the broker; False: the host has no queue, so nothing was delivered; None: perhaps it was."""
        context = sign(self._key, self._issuer, signed_for or host, method, arguments) if self._key else {}
        try:
            self._client.prepare(server=host, version=NEEDS[method]).cast(context, method, **arguments)
        except oslo_messaging.exceptions.MessageUndeliverable:
            return False
        except (oslo_messaging.MessagingException, kombu.exceptions.OperationalError, OSError) as error:
            print(f"the broker is away: {error!r}", file=sys.stderr)
            return None
        return True

    def close(self):
        self._transport.cleanup()


class Ear:
    """Events and heartbeats of one host, on a queue that goes a minute after this program.

    oslo.messaging's listeners hear events only: heartbeats have a routing key of their own, so this is kombu.

    :param is_shared: agents have no accounts of their own at the broker, so that anybody's word for this host is taken
    """

    def __init__(self, url, host, *, is_shared=False, ca_file=None):
        self._host, self._is_shared = host, is_shared
        self._address = f"amqp://{url.partition('://')[2]}"
        account, broker = urlsplit(self._address).username or "", urlsplit(self._address).hostname
        # Without the name a certificate of any name would do, if that CA made it.
        self._tls = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(ca_file), "server_hostname": broker} if ca_file else False
        owner = account if account.startswith("controller.") else "crashcart.control"
        events = kombu.Exchange("crashcart.events", type="topic", no_declare=True)
        keys = ("notifications.info", "notifications.warn", "notifications.error", "heartbeats")
        limits = {"x-expires": 60_000, "x-max-length": 10_000, "x-overflow": "drop-head"}
        bindings = [kombu.binding(events, routing_key=key) for key in keys]
        self._queue = kombu.Queue(f"{owner}.{uuid.uuid4().hex}", bindings=bindings, durable=True, queue_arguments=limits)
        self._arrived, self._known = deque(), set()
        self._open(tries=3)

    def hear(self, until):
        """What comes until a time.monotonic(): pairs of event type and payload, each once; None about once a second."""
        while time.monotonic() < until:
            yield None
            try:
                self._connection.drain_events(timeout=1)
            except TimeoutError:
                self._connection.heartbeat_check()
            except self._connection.connection_errors as error:
                print(f"the broker is away: {error!r}; trying again", file=sys.stderr)
                self._connection.collect()
                self._open()
            while self._arrived:
                yield self._arrived.popleft()

    def close(self):
        self._connection.close()

    def _open(self, tries=None):
        self._connection = kombu.Connection(self._address, ssl=self._tls, heartbeat=30)
        self._connection.ensure_connection(max_retries=tries, interval_max=5)
        kombu.Consumer(self._connection, self._queue, on_message=self._take).consume()

    def _take(self, message):
        told = json.loads(json.loads(message.body)["oslo.message"])
        sender = message.properties.get("user_id")  # RabbitMQ has checked it; the host in the payload is only said
        is_believed = self._is_shared or sender == f"agent.{self._host}"
        if is_believed and told["payload"].get("host") == self._host and told["message_id"] not in self._known:
            self._known.add(told["message_id"])
            self._arrived.append((told["event_type"], told["payload"]))
        message.ack()


def find_server(caster, ear, host, server, kind, seconds):
    """(heartbeat, server) of a host: its agent is asked for a heartbeat with all of its servers."""
    end = time.monotonic() + seconds
    heard = "no heartbeat came; what it refuses it may tell once a minute only, and its log has it"
    while time.monotonic() < end:
        if caster.cast(host, "report_inventory", {}) is False:
            heard = "it has no queue; is its agent running?"
        for one in ear.hear(min(end, time.monotonic() + CAST_AGAIN_SECONDS)):
            event_type, payload = one or (None, None)
            if event_type == "agent.cast_refused":
                heard = f"its agent refuses casts: {', '.join(payload['reasons'])}"
            elif event_type == "agent.heartbeat":
                found = next((each for each in payload["inventory"]["servers"] if each["id"] == server), None)
                if found is not None:
                    check_version(payload, kind)
                    return payload, found
                if payload["inventory"]["full"] and payload["inventory"]["readable"]:
                    raise NothingCast(f"host {host} has no server {server}")
    raise NothingCast(f"host {host}: {heard}")


def check_version(heartbeat, kind):
    """An agent drops a cast of a newer minor version unsaid, so it is not sent one."""
    spoken, needed = ([int(number) for number in version.split(".")] for version in (heartbeat["rpc_version"], NEEDS[kind]))
    if spoken[0] != needed[0] or spoken < needed:
        raise NothingCast(
            f"the agent on {heartbeat['host']} (release {heartbeat['release']}) does not support this: {kind} needs RPC version "
            f"{NEEDS[kind]}, it speaks {heartbeat['rpc_version']}"
        )


def build_action(arguments, heartbeat, server):
    """What an action must say; whatever repeats it must say the same, but for sent_at."""
    action = {
        "id": arguments.id or f"req-{uuid.uuid4()}",
        "kind": arguments.kind,
        "host": arguments.host,
        "server": arguments.server,
        "server_generation": server["generation"],
        "journal_id": heartbeat["journal_id"],
        "project": arguments.project or server["project"],
        "user": arguments.user,
        "deadline": (datetime.now(UTC) + timedelta(seconds=arguments.deadline)).isoformat(),
    }
    if arguments.kind == "set_watchdog":
        action["watchdog"] = {"model": arguments.model, "expiry_action": arguments.expiry_action}
        action["replace"] = not arguments.keep
    elif arguments.force:
        action["force"] = True
    return action


def carry_out(caster, ear, action, *, follow=False, tell=print):
    """Cast it until the agent has it, tell what it reports, and return its ending, or "refused"; None: it reported none."""
    end = time.monotonic() + (datetime.fromisoformat(action["deadline"]) - datetime.now(UTC)).total_seconds()
    ending, is_received, next_cast = None, False, 0.0
    for one in ear.hear(end + GRACE_SECONDS + (3600 if follow else 0)):
        now = time.monotonic()
        if not is_received and next_cast <= now < end:
            next_cast = now + CAST_AGAIN_SECONDS
            outcome = caster.cast(action["host"], action["kind"], {"action": {**action, "sent_at": datetime.now(UTC).isoformat()}})
            tell(f"{action['id']} {OUTCOMES[outcome]}")
        if one is None or one[1].get("action_id") != action["id"]:
            if ending is None and now > end + GRACE_SECONDS:
                return None
            continue
        event_type, payload = one
        is_received = is_received or event_type.startswith("action.")
        if event_type == "action.ended":
            ending = payload["ending"]
            tell(f"{action['id']} {ending} {payload['code']}: {payload['reason']}")
            if not follow or ending in ("failed", "expired"):
                return ending
        elif event_type == "action.observed":
            tell(f"{action['id']} observed {payload['observation']}: {payload['text']}")
            if payload["final"]:
                return ending
        elif event_type == "action.id_conflict":
            tell(f"{action['id']} refused: {payload['reason']}")
            return "refused"
        else:
            tell(f"{action['id']} {event_type}")
    return ending


def read_id(text):
    """An agent that cannot read an action's id has nobody to tell of it."""
    try:
        if text == f"req-{uuid.UUID(text.removeprefix('req-'))}":
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not req- and a UUID in lower case")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="whose agent is told")
    parser.add_argument("--server", required=True, metavar="ID", help="of the server, in lower case")
    parser.add_argument(
        "--key", type=Path, metavar="ISSUER.key", help="sign with this private key (Ed25519, PEM); agents know it as ISSUER"
    )
    parser.add_argument("--ca-file", type=Path, help="speak TLS with the broker, whose certificate this CA made")
    parser.add_argument("--deadline", type=float, default=60, metavar="SECONDS", help="after which nothing is begun (%(default)g)")
    parser.add_argument(
        "--id", type=read_id, help="req-UUID, by default a new one; whatever is not quite the same under a known one is refused"
    )
    parser.add_argument("--project", help="whose action it is in the API (by default the server's)")
    parser.add_argument("--user", help="who asked for it")
    parser.add_argument("--shared-account", action="store_true", help="agents share an account: believe whoever speaks for the host")
    kinds = parser.add_subparsers(dest="kind", required=True)
    crash = kinds.add_parser("trigger_crash_dump")
    crash.add_argument("--force", action="store_true", help="although an earlier dump may still be running, which this can ruin")
    crash.add_argument("--follow", action="store_true", help="until it is clear what the guest made of it: half an hour, at most")
    watchdog = kinds.add_parser("set_watchdog")
    watchdog.add_argument("--model", required=True)
    watchdog.add_argument("--expiry-action", required=True)
    watchdog.add_argument("--keep", action="store_true", help="only if the server has none yet")
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse(argv)
    url = os.environ.get("CONTROL_URL")  # it has a password, and everybody on a machine sees command lines
    if not url:
        print("CONTROL_URL is not set: rabbit://controller.NAME:password@broker:5672/", file=sys.stderr)
        return 4
    try:
        caster = Caster(url, key_file=arguments.key, ca_file=arguments.ca_file)
    except (OSError, ValueError) as error:
        print(f"the key {arguments.key} cannot be read: {error}", file=sys.stderr)
        return 4
    try:
        ear = Ear(url, arguments.host, is_shared=arguments.shared_account, ca_file=arguments.ca_file)
    except kombu.exceptions.OperationalError as error:
        print(f"the broker cannot be reached: {error}", file=sys.stderr)
        return 4
    except amqp.exceptions.AccessRefused as error:
        print(f"the broker refuses the account of CONTROL_URL: {error.reply_text}", file=sys.stderr)
        return 4
    try:
        heartbeat, server = find_server(caster, ear, arguments.host, arguments.server, arguments.kind, arguments.deadline)
        action = build_action(arguments, heartbeat, server)
        ending = carry_out(caster, ear, action, follow=getattr(arguments, "follow", False), tell=lambda line: print(line, flush=True))
    except NothingCast as error:
        print(error, file=sys.stderr)
        return 4
    finally:
        ear.close()
        caster.close()
    if ending is None:
        print(f"{action['id']} was not reported; do not simply repeat it, it may have been carried out", file=sys.stderr)
    return {"succeeded": 0, "failed": 1, "expired": 1, "refused": 1}.get(ending, 3)


if __name__ == "__main__":
    sys.exit(main())
