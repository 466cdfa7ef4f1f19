"""Tokens that were confirmed a moment ago, and whose they are."""

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api_gateway.identity import Caller
from compute_agent.contract.clock import Clock

Fingerprint = bytes


class ConfirmedTokens:
    """A bounded memory, for some seconds each and never past a token's end; the oldest gives way.

    Holds keyed hashes: without the key, which lives in this object alone, nobody can use what is in it.

    :param seconds: 0: nothing is remembered
    """

    def __init__(self, clock: Clock, *, seconds: float, size: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[Fingerprint, tuple[float, Caller]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, token: str) -> Caller | None:
        """Whose it is, if it was confirmed less than ``seconds`` ago. Looking does not prolong it."""
        with self._lock:
            known = self._known.get(self._compute_fingerprint(token))
        return known[1] if known is not None and self._clock.monotonic() < known[0] else None

    def add(self, token: str, said: Mapping[str, Any], caller: Caller) -> None:
        """Unless what was said of it holds for the request alone that it came with.

        :param said: the identity service's own words: what it calls ``token``
        """
        left = (datetime.fromisoformat(said["expires_at"]) - self._clock.now()).total_seconds()
        seconds = min(self._seconds, left)
        if seconds <= 0 or said.get("bind") or (said.get("application_credential") or {}).get("access_rules") is not None:
            return
        fingerprint = self._compute_fingerprint(token)
        with self._lock:
            self._known[fingerprint] = self._clock.monotonic() + seconds, caller
            self._known.move_to_end(fingerprint)
            while len(self._known) > self._size:
                self._known.popitem(last=False)

    def _compute_fingerprint(self, token: str) -> Fingerprint:
        return hashlib.blake2b(token.encode("utf-8", "surrogateescape"), key=self._key, digest_size=32).digest()
