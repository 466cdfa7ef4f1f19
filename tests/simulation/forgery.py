"""What somebody sends who has no business to: casts that no gateway signed, events in another's name, and bodies that nobody can read.

He has seen whatever passed the broker and may publish to every queue. Nothing of it may change anything but what says that it came: the
refusals of an agent, the dead-letter shelf, the counter of forged senders. Everything else goes on.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api_gateway.received import Received
from compute_agent.contract.notifications import HEARTBEAT_TYPE, Notification, decode, encode
from compute_agent.contract.signing import CONTEXT_KEY, CastSigner
from compute_agent.contract.versions import RPC_API_VERSION
from tests.simulation.kernel import START, HostClock
from tests.simulation.plan import Plan
from tests.simulation.step import Step, draw_moments

if TYPE_CHECKING:
    from tests.simulation.world import World

ISSUER = "gateway"
PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(b"g" * 32)
TRUSTED = {ISSUER: (PRIVATE_KEY.public_key(),)}
_FOREIGN_KEY = Ed25519PrivateKey.from_private_bytes(b"f" * 32)
_NEVER_ASKED = "req-00000000-0000-4000-8000-00000000000f"

POISON: dict[str, bytes] = {
    "nothing": b"",
    "no text": b"\xff\xfe\x00",
    "no envelope": b"{}",
    "deep": b"[" * 20_000,
    "huge": json.dumps({"oslo.version": "2.0", "oslo.message": "x" * 300_000}).encode(),
    "no payload": json.dumps({"oslo.message": json.dumps({"message_id": "m", "event_type": "action.ended", "payload": 7})}).encode(),
    "numbers": json.dumps({"oslo.message": json.dumps(dict.fromkeys(("message_id", "event_type", "publisher_id"), 1))}).encode(),
}
"""Bodies that are no notification."""


@dataclass
class Forgeries:
    """What was sent, for the invariants: ``bodies`` to the recorder's queue, ``message_ids`` of events that a host told of a server that is
    not its own."""

    bodies: set[bytes] = field(default_factory=set)
    message_ids: set[str] = field(default_factory=set)
    senders: int = 0


def create_signer(clock: HostClock) -> CastSigner:
    """The gateway's own."""
    return CastSigner(ISSUER, PRIVATE_KEY, clock)


def _take_signature_away(message: dict[str, Any], _clock: HostClock, _host: str) -> None:
    message["context"] = {}


def _sign_with_foreign_key(message: dict[str, Any], clock: HostClock, host: str) -> None:
    message["context"] = CastSigner(ISSUER, _FOREIGN_KEY, clock).sign(host, message["method"], message["args"])


def _alter(message: dict[str, Any], _clock: HostClock, _host: str) -> None:
    message["args"].setdefault("forged", True)


def _spoil_signature(message: dict[str, Any], _clock: HostClock, _host: str) -> None:
    message["context"] = {CONTEXT_KEY: [message["context"]]}


def _replay(_message: dict[str, Any], _clock: HostClock, _host: str) -> None:
    """As it came; or to another host than it was for."""


CASTS: dict[str, Callable[[dict[str, Any], HostClock, str], None]] = {
    "unsigned": _take_signature_away,
    "foreign": _sign_with_foreign_key,
    "altered": _alter,
    "spoilt": _spoil_signature,
    "replayed": _replay,
}


@dataclass(frozen=True)
class ForgeCast(Step):
    """A cast that was overheard comes once more to a host's queue, changed in some way.

    All but a replayed one ask for an action that nobody asked for, were they obeyed.
    """

    host: int
    how: str

    def apply(self, world: "World") -> None:
        agent, overheard = world.agents[self.host], world.broker.overheard
        if not overheard or not world.broker.has_rpc_queue(agent.host):
            return
        message = copy.deepcopy(overheard[-1])
        if self.how != "replayed" and "action" in message["args"]:
            message["args"]["action"] |= {"id": _NEVER_ASKED, "host": agent.host}
        CASTS[self.how](message, world.gateway.clock, agent.host)
        world.kernel.note("somebody", f"sends {agent.host} a cast of {message['method']}, {self.how}")
        world.probes.strike("cast forged")
        world.broker.forge_rpc(agent.host, message)


MALFORMED: dict[str, dict[str, Any]] = {
    "number": {"method": "trigger_crash_dump", "args": {"action": 7}},
    "list": {"method": "set_watchdog", "args": {"action": [{}]}},
    "range": {"method": "resend_events", "args": {"events": {"epoch": 1, "first": -1, "last": 0}}},
    "unknown": {"method": "format_disk", "args": {"action": None}},
    "huge": {"method": "trigger_crash_dump", "args": {"action": {"id": "x" * 100_000}}},
}
"""Casts that no agent can do anything with, whoever sends them."""


@dataclass(frozen=True)
class PoisonCast(Step):
    """One of them comes to a host's queue."""

    host: int
    which: str

    def apply(self, world: "World") -> None:
        host = world.agents[self.host].host
        if world.broker.has_rpc_queue(host):
            world.kernel.note("somebody", f"sends {host} a malformed cast, {self.which}")
            world.probes.strike("body poisoned")
            world.broker.forge_rpc(host, {"version": RPC_API_VERSION, "context": {}, **MALFORMED[self.which]})


@dataclass(frozen=True)
class ForgeEvent(Step):
    """Whoever has the account of one host's agent tells what another host's would tell: ``of_own`` in its own name, of a server that is not
    its own; otherwise in the other's name."""

    host: int
    event_type: str
    of_own: bool = False
    serial: int = 0

    def apply(self, world: "World") -> None:
        liar = world.agents[self.host]
        victim = world.agents[(self.host + 1) % len(world.agents)]
        guests = [guest for guest in victim.hypervisor.guests.values() if not guest.redefined]
        if victim is liar or not guests:
            return
        message_id = f"forged-{self.host}-{self.serial}"
        payload = {
            "version": "1.0",
            "server": guests[0].id,
            "host": liar.host if self.of_own else victim.host,
            "epoch": message_id,
            "sequence": 1,
            "occurred_at": world.gateway.clock.now().isoformat(),
            "action_id": world.accepted[-1] if world.accepted else _NEVER_ASKED,
            "kind": "trigger_crash_dump",
            "ending": "succeeded",
            "code": "signal_delivered",
            "reason": "forged",
            "power_state": "shutdown",
        }
        if self.event_type.startswith("server."):
            del payload["action_id"]
        body = encode(Notification(message_id, self.event_type, "somebody", "info", START.isoformat(), payload))
        world.kernel.note("somebody", f"says as agent.{liar.host} that {payload['host']} has {self.event_type}")
        world.probes.strike("event forged")
        self._note(world.forgeries, body, message_id)
        world.broker.forge_event(Received(body, f"agent.{liar.host}"), heartbeat=self.event_type == HEARTBEAT_TYPE)

    def _note(self, forgeries: Forgeries, body: bytes, message_id: str) -> None:
        if self.of_own:
            forgeries.message_ids.add(message_id)
        else:
            forgeries.bodies.add(body)
            forgeries.senders += 1


@dataclass(frozen=True)
class Poison(Step):
    """A body that nobody can read comes to the recorder's queue, or to that of the heartbeats."""

    which: str
    heartbeat: bool = False

    def apply(self, world: "World") -> None:
        body = POISON[self.which]
        world.kernel.note("somebody", f"sends {self.which} to the {'heartbeats' if self.heartbeat else 'recorder'}")
        world.probes.strike("body poisoned")
        if not self.heartbeat:
            world.forgeries.bodies.add(body)
        world.broker.forge_event(Received(body, "somebody"), heartbeat=self.heartbeat)


_OF_OWN = ("server.stopped", "server.panicked")
_OF_OTHERS = ("action.ended", "action.received", "server.stopped", HEARTBEAT_TYPE)


def draw_forgeries(plan: Plan, chance: random.Random) -> Iterator[Step]:
    for serial, at in enumerate(draw_moments(plan, chance, plan.forgeries)):
        host, kind = chance.randrange(plan.hosts), chance.choice(("cast", "event", "poison", "poison"))
        if kind == "cast" and plan.signed:
            yield ForgeCast(at, host, chance.choice(tuple(CASTS)))
        elif kind == "event":
            of_own = chance.random() < 0.4
            yield ForgeEvent(at, host, chance.choice(_OF_OWN if of_own else _OF_OTHERS), of_own, serial)
        elif kind == "poison":
            yield Poison(at, chance.choice(tuple(POISON)), chance.random() < 0.3)
        else:
            yield PoisonCast(at, host, chance.choice(tuple(MALFORMED)))


# What must be true


def check_forgeries(world: "World", record: Any) -> Iterator[str]:
    """Nothing that nobody asked for is known, and what lies on the shelf are forgeries. Whom they were shown: ``audience``."""
    for action in record.actions:
        if action not in world.arguments:
            yield f"{action}: nobody asked for this action, and it has a row"
    for agent in world.agents:
        for call in agent.hypervisor.calls:
            if call.action not in world.arguments:
                yield f"{call.action}: nobody asked for this action, and its signal was tried"
    for body in record.shelved:
        if body not in world.forgeries.bodies:
            yield f"a message lies on the dead-letter shelf that nobody forged: {body[:200]!r}"
    for body in world.forgeries.bodies - set(POISON.values()):
        forged = decode(body)
        if any(event["message_id"] == forged.message_id for event in record.events):
            yield f"a forged {forged.event_type} of {forged.payload['host']} was recorded"
