"""Logins that were checked a moment ago."""

import hashlib
import secrets
import threading
from collections import OrderedDict

from compute_agent.contract.clock import Clock

Fingerprint = bytes

_RENEWED_AFTER = 0.75
"""Of its time: whoever is still asking then is likely to ask when it is over."""


class Verdicts:
    """A bounded memory of logins, for some seconds each; the oldest gives way.

    Holds keyed hashes: without the key, which lives in this object alone, nobody can try passwords on them.
    """

    def __init__(self, clock: Clock, *, seconds: float, size: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._key = secrets.token_bytes(32)
        self._expiry: OrderedDict[Fingerprint, float] = OrderedDict()
        self._renewing: set[Fingerprint] = set()
        self._lock = threading.Lock()

    def compute_fingerprint(self, user: str, password: bytes) -> Fingerprint:
        """The same for the same login only; user names hold no colon."""
        return hashlib.blake2b(user.encode("utf-8") + b":" + password, key=self._key, digest_size=32).digest()

    def has(self, fingerprint: Fingerprint) -> bool:
        """Whether that login was added less than ``seconds`` ago. Looking does not prolong it."""
        with self._lock:
            expiry = self._expiry.get(fingerprint)
        return expiry is not None and self._clock.monotonic() < expiry

    def is_to_be_renewed(self, fingerprint: Fingerprint) -> bool:
        """Whether the caller is to check that login again, although it is known: the first one who asks late in its time is. All others
        go on meanwhile, where they would all have to check it at once when its time is over."""
        with self._lock:
            expiry = self._expiry.get(fingerprint)
            is_late = expiry is not None and self._clock.monotonic() >= expiry - self._seconds * (1 - _RENEWED_AFTER)
            if not is_late or fingerprint in self._renewing:
                return False
            self._renewing.add(fingerprint)
            return True

    def give_up_renewal(self, fingerprint: Fingerprint) -> None:
        """The caller could not check it; the next one who asks is to."""
        with self._lock:
            self._renewing.discard(fingerprint)

    def add(self, fingerprint: Fingerprint) -> None:
        with self._lock:
            self._renewing.discard(fingerprint)
            self._expiry[fingerprint] = self._clock.monotonic() + self._seconds
            self._expiry.move_to_end(fingerprint)
            while len(self._expiry) > self._size:
                self._renewing.discard(self._expiry.popitem(last=False)[0])
