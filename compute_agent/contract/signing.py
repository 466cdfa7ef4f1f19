"""Signatures of casts and calls: the gateway signs what it tells an agent, the agent holds public keys only and refuses what does not hold.

The broker cannot vouch for a cast: whoever may publish a reply reaches every queue through the default exchange. So each cast travels
with an Ed25519 signature in its RPC context, made anew for each attempt, over the canonical JSON of who says it, to which host, what, with
which arguments, when, and a nonce.
"""

import base64
import binascii
import hashlib
import heapq
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from compute_agent.contract.clock import Clock

if TYPE_CHECKING:  # ten megabytes, which who has no keys does without
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CONTEXT_KEY: Final = "crashcart_signature"
"""Where the signature is in the RPC context. An agent that knows nothing of it ignores it."""
CALL_MAX_AGE: Final = timedelta(seconds=60)
"""Nobody waits that long for the answer to a call."""
CALLS: Final = frozenset({"ping", "get_diagnostics", "get_black_box"})

_FORMAT: Final = 1
_NONCES_KEPT: Final = 20_000
"""Of casts, and as many of calls: some 10 MB in all."""
_LONGEST_TEXT: Final = 300


class Refusal(StrEnum):
    """Why a cast was refused. All but the first three are said of a cast that a trusted issuer did sign."""

    UNSIGNED = "unsigned"
    UNKNOWN_ISSUER = "unknown_issuer"
    ALTERED = "altered"
    ANOTHER_HOST = "another_host"
    TOO_OLD = "too_old"
    FROM_THE_FUTURE = "from_the_future"
    REPLAYED = "replayed"


class CastRefused(Exception):
    """A cast or call does not come, as it is, from an issuer that this host trusts; nothing was done."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


TrustedKeys = Mapping[str, "tuple[Ed25519PublicKey, ...]"]
"""Issuer -> its keys: more than one while they are being exchanged."""


@dataclass(frozen=True)
class _Signature:
    """What travels. ``host`` is the one that the cast was signed for."""

    issuer: str
    key_id: str
    host: str
    signed_at: str
    nonce: str
    signature: bytes

    @property
    def moment(self) -> datetime:
        """:raises ValueError: it names none, or no zone."""
        moment = datetime.fromisoformat(self.signed_at)
        if moment.tzinfo is None:
            raise ValueError("signed_at has no zone")
        return moment.astimezone(UTC)

    def write_statement(self, method: str, arguments: Mapping[str, Any]) -> bytes:
        """The bytes that are signed.

        :raises ValueError, TypeError, RecursionError: the arguments are no plain JSON.
        """
        return canonical_json(
            {
                "v": _FORMAT,
                "issuer": self.issuer,
                "key_id": self.key_id,
                "host": self.host,
                "method": method,
                "arguments": dict(arguments),
                "signed_at": self.signed_at,
                "nonce": self.nonce,
            }
        )

    def to_wire(self) -> dict[str, Any]:
        return {
            "v": _FORMAT,
            "issuer": self.issuer,
            "key_id": self.key_id,
            "host": self.host,
            "signed_at": self.signed_at,
            "nonce": self.nonce,
            "signature": base64.b64encode(self.signature).decode(),
        }

    @classmethod
    def from_wire(cls, body: object) -> "_Signature":
        """Read what a stranger may have sent.

        :raises ValueError: it is not of this format.
        """
        if not isinstance(body, Mapping) or type(body.get("v")) is not int or body["v"] != _FORMAT:
            raise ValueError("not a signature of this format")
        texts = [body.get(name) for name in ("issuer", "key_id", "host", "signed_at", "nonce", "signature")]
        if not all(isinstance(text, str) and len(text) <= _LONGEST_TEXT for text in texts):
            raise ValueError("parts of the signature are missing or no text")
        issuer, key_id, host, signed_at, nonce, signature = map(str, texts)
        try:
            return cls(issuer, key_id, host, signed_at, nonce, base64.b64decode(signature, validate=True))
        except binascii.Error as error:
            raise ValueError("the signature is not base64") from error


class CastSigner:
    """The gateway's side: one issuer with its key. Safe to use from several threads.

    :param new_nonce: makes a text that never comes twice
    """

    def __init__(
        self, issuer: str, private_key: "Ed25519PrivateKey", clock: Clock, *, new_nonce: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self.issuer = issuer
        self._private_key = private_key
        self._key_id = make_key_id(private_key.public_key())
        self._clock = clock
        self._new_nonce = new_nonce

    def sign(self, host: str, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The RPC context of one attempt to tell ``host`` something; sign a second attempt anew.

        :raises ValueError, TypeError: the arguments are no plain JSON.
        """
        unsigned = _Signature(self.issuer, self._key_id, host, self._clock.now().isoformat(), self._new_nonce(), b"")
        signature = self._private_key.sign(unsigned.write_statement(method, arguments))
        return {CONTEXT_KEY: unsigned.to_wire() | {"signature": base64.b64encode(signature).decode()}}


class CastVerifier:
    """The agent's side. Safe to use from several threads; nothing of a cast is remembered before its signature held.

    The clocks of both sides may differ by as much as a cast may be old: whether a deadline can be trusted is decided (and told) where the
    action is taken up. Nonces are remembered until their cast is too old, so that none is taken twice; when there are too many, those that
    were signed first are forgotten, and what was signed no later than these is refused as well. They are not kept over a restart: what is
    done only once is held by the journal then.

    :param cast_max_age: a cast waits that long in its queue at most for an agent that is away; calls: :data:`CALL_MAX_AGE`
    :param nonces_kept: so many are remembered of casts, and as many of calls
    """

    def __init__(self, keys: TrustedKeys, host: str, clock: Clock, *, cast_max_age: timedelta, nonces_kept: int = _NONCES_KEPT) -> None:
        self._host = host
        self._clock = clock
        self._casts = _Nonces(cast_max_age, nonces_kept)
        self._calls = _Nonces(min(cast_max_age, CALL_MAX_AGE), nonces_kept)
        self.trust(keys)

    def trust(self, keys: TrustedKeys) -> None:
        """From now on these keys, and no others."""
        self._keys = {(issuer, make_key_id(key)): key for issuer, its_keys in keys.items() for key in its_keys}

    def verify(self, method: str, context: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
        """Hold what came in against its signature, once; the same one is refused the next time.

        :returns: the issuer
        :raises CastRefused: it does not hold.
        """
        from cryptography.exceptions import InvalidSignature  # here: see above

        body = context.get(CONTEXT_KEY)
        if body is None:
            raise CastRefused(Refusal.UNSIGNED)
        try:
            signature = _Signature.from_wire(body)
            signed_at = signature.moment
        except (ValueError, OverflowError) as error:
            raise CastRefused(Refusal.ALTERED) from error
        key = self._keys.get((signature.issuer, signature.key_id))
        if key is None:
            raise CastRefused(Refusal.UNKNOWN_ISSUER)
        try:
            key.verify(signature.signature, signature.write_statement(method, arguments))
        except (InvalidSignature, ValueError, TypeError, RecursionError) as error:
            raise CastRefused(Refusal.ALTERED) from error
        if signature.host != self._host:
            raise CastRefused(Refusal.ANOTHER_HOST)
        nonces = self._calls if method in CALLS else self._casts
        nonces.use(f"{signature.issuer} {signature.nonce}", signed_at, self._clock.now())
        return signature.issuer


class _Nonces:
    """Those that were used. The earliest signed go first: one of a clock that was ahead for a moment must not shut out what comes after."""

    def __init__(self, max_age: timedelta, most: int) -> None:
        self._max_age = max_age
        self._most = most
        self._used: set[str] = set()
        self._by_age: list[tuple[datetime, str]] = []
        self._forgotten_until = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._used)

    def use(self, nonce: str, signed_at: datetime, now: datetime) -> None:
        """:raises CastRefused: it was used, or is not of the time in which uses are remembered."""
        if signed_at < now - self._max_age:
            raise CastRefused(Refusal.TOO_OLD)
        if signed_at > now + self._max_age:
            raise CastRefused(Refusal.FROM_THE_FUTURE)
        with self._lock:
            if nonce in self._used or signed_at <= self._forgotten_until:
                raise CastRefused(Refusal.REPLAYED)
            self._used.add(nonce)
            heapq.heappush(self._by_age, (signed_at, nonce))
            while len(self._by_age) > self._most or self._by_age[0][0] < now - self._max_age:
                # Not by its age alone: a clock that is set back must not make it young again.
                self._forgotten_until, forgotten = heapq.heappop(self._by_age)
                self._used.remove(forgotten)


def make_key_id(key: "Ed25519PublicKey") -> str:
    """Which of an issuer's keys it is: the beginning of the SHA-256 of the raw key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def canonical_json(value: object) -> bytes:
    """The one way to write a value of plain JSON types, which a way over the wire and back does not change.

    :raises ValueError, TypeError, RecursionError: it has a value or key that JSON has not.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
