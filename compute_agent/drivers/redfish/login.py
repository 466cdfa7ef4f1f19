"""How a BMC knows who asks: a session of its own where it has them, else the password with every request.

A password that the BMC refuses is told once per visit and not tried in another way: accounts get locked by that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compute_agent.drivers.bmc.protocol import Secret
from compute_agent.drivers.redfish.documents import find_link
from compute_agent.drivers.redfish.errors import UNAVAILABLE, NoAnswer, Refused, Unreachable

if TYPE_CHECKING:
    from compute_agent.drivers.redfish.connection import Visit

ROOT = "/redfish/v1/"
_TABLE_FULL = "SessionLimitExceeded"


class Credentials:
    """Who we are, and how to keep that out of texts."""

    def __init__(self, username: str, password: Secret) -> None:
        """:raises ValueError: the password is no text."""
        self.username = username
        self._password = password
        try:
            password.reveal().decode()
        except UnicodeDecodeError:
            raise ValueError("the password is not UTF-8, which Redfish asks for") from None

    @property
    def password(self) -> str:
        return self._password.reveal().decode()

    def redact(self, said: str) -> str:
        """What a BMC said, without the password, should it repeat that."""
        return said.replace(self.password, "***") if self.password else said


class Login:
    """The login that the visits of one BMC share. Safe to use from several threads."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()
        self._token: str | None = None
        self._session: str | None = None
        self._sends_password = False

    @property
    def has_session(self) -> bool:
        return self._session is not None

    def enter(self, visit: Visit) -> str | None:
        """Make the visit's next exchanges ours; returns the token that they use, None: the password, or nothing.

        :raises ExchangeError: the BMC does not let us in.
        """
        if not self._credentials.username:
            return None
        with self._locked(visit):
            if self._token is None and not self._sends_password:
                self._log_in(visit)
            self._show(visit)
            return self._token

    def renew(self, visit: Visit, used: str | None) -> bool:
        """The BMC did not know the token ``used`` any more: log in anew, unless another thread has. False: there is nothing to renew.

        ``used`` None: it did not take the password with a request. Whether it has sessions is asked again next time: it may have been
        about to start when it did not say so.
        """
        if used is None:
            self._sends_password = False
            return False
        with self._locked(visit):
            if self._token == used:
                self._token = self._session = None
                visit.use_nothing()
                self._log_in(visit)
            self._show(visit)
            return True

    def leave(self, visit: Visit) -> None:
        """Give the session back."""
        with self._locked(visit):
            session, token = self._session, self._token
            self._session = self._token = None
        if session is not None and token is not None:
            visit.use_token(token)
            visit.ask_openly("DELETE", session)

    def _log_in(self, visit: Visit) -> None:
        sessions = self._find_sessions(visit)
        if sessions is None:
            self._sends_password = True
            return
        try:
            answer = visit.ask_openly("POST", sessions, {"UserName": self._credentials.username, "Password": self._credentials.password})
        except Refused as refusal:
            if refusal.denies_access and _TABLE_FULL not in refusal.keys:
                raise
            self._sends_password = True
            return
        if answer.token is None:
            raise NoAnswer("the BMC made a session and did not say how to use it")
        self._token = answer.token
        self._session = answer.location or find_link({"session": answer.body}, "session")

    def _find_sessions(self, visit: Visit) -> str | None:
        try:
            return find_link(visit.ask_openly("GET", ROOT).document, "Links", "Sessions")
        except Refused as refusal:
            if refusal.status == UNAVAILABLE:
                raise
            return None  # a BMC that shows its root to nobody unknown

    def _show(self, visit: Visit) -> None:
        if self._token is not None:
            visit.use_token(self._token)
        else:
            visit.use_password(self._credentials.username.encode(), self._credentials.password.encode())

    @contextmanager
    def _locked(self, visit: Visit) -> Iterator[None]:
        if not self._lock.acquire(timeout=visit.remaining):
            raise Unreachable("another exchange is still logging in")
        try:
            yield
        finally:
            self._lock.release()
