"""Strategy ``http_basic``: users and passwords, for a gateway without an identity service."""

import base64
import binascii
import logging
from dataclasses import dataclass, field

import bcrypt
from oslo_config import cfg

from api_gateway.auth.accounts import Accounts, read_accounts
from api_gateway.auth.strategy import unauthorized
from api_gateway.auth.turnstile import Turnstile
from api_gateway.auth.verdicts import Verdicts
from api_gateway.context import Request
from api_gateway.faults import Fault, forbidden
from api_gateway.identity import Caller
from api_gateway.reloading import Reloaded
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

_CHALLENGE = 'Basic realm="crashcart", charset="UTF-8"'
_LONGEST_PASSWORD_BYTES = 72
"""bcrypt looks at no more; what a longer one would be compared with is not what its user chose."""
_REMEMBERED_LOGINS = 1024
_THREADS_PER_CHECK = 4
"""At most a quarter of a worker's threads are busy with checking passwords."""


@dataclass(frozen=True)
class _Checked:
    """The accounts, and what was found out about logins while they were in force: new accounts begin with nothing."""

    accounts: Accounts
    good: Verdicts = field(repr=False)
    bad: Verdicts = field(repr=False)


class HttpBasic:
    """Checks the password of each login with bcrypt, and remembers the verdict for a while.

    Who does not know a password learns nothing else: an unknown user costs the same work and gets the same answer as a wrong password.
    """

    loopback_only = False
    browsers_log_in = True

    def __init__(self, checked: Reloaded[_Checked], turnstile: Turnstile) -> None:
        self._checked = checked
        self._turnstile = turnstile

    def authenticate(self, request: Request) -> Caller:
        login = _read_login(request.get_header("Authorization"))
        if login is None:
            raise unauthorized(_CHALLENGE)
        checked = self._checked.get()
        user, password = login
        if not self._is_right(checked, user, password, request.remote_addr):
            raise unauthorized(_CHALLENGE)
        caller = checked.accounts.callers.get(user)
        if caller is None:
            raise forbidden(f"The user {user} has neither a project nor roles here.")
        return caller

    def _is_right(self, checked: _Checked, user: str, password: bytes, address: str) -> bool:
        """Whether that is the user's password.

        :param address: where the login comes from, for the log
        :raises Fault: 503 while too many others are checked.
        """
        fingerprint = checked.good.compute_fingerprint(user, password)
        known = checked.good.has(fingerprint)
        if known and not checked.good.is_to_be_renewed(fingerprint):
            return True
        if checked.bad.has(fingerprint):
            return False
        digest = checked.accounts.hashes.get(user)
        try:
            with self._turnstile.enter():
                equal = bcrypt.checkpw(password[:_LONGEST_PASSWORD_BYTES], digest or checked.accounts.decoy)
        except Fault:
            if known:
                checked.good.give_up_renewal(fingerprint)
                return True  # what is known holds a little longer
            raise
        right = equal and digest is not None and len(password) <= _LONGEST_PASSWORD_BYTES
        (checked.good if right else checked.bad).add(fingerprint)
        if not right:  # bcrypt keeps these lines few
            LOG.warning("wrong user or password: login as %.80r from %s", user, address)
        return right


def create_http_basic(conf: cfg.ConfigOpts, clock: Clock) -> HttpBasic:
    """:raises api_gateway.reloading.Unreadable: a file cannot be used."""
    files = (conf.api.http_basic_auth_user_file, conf.api.http_basic_roles_file)

    def load() -> _Checked:
        # Two memories, so that a flood of wrong logins forgets no right one; both are asked for the good ones' fingerprints.
        good = Verdicts(clock, seconds=conf.api.http_basic_cache_seconds, size=_REMEMBERED_LOGINS)
        bad = Verdicts(clock, seconds=conf.api.http_basic_cache_seconds, size=_REMEMBERED_LOGINS)
        return _Checked(read_accounts(*files), good, bad)

    return HttpBasic(Reloaded(load, lambda: files, clock), Turnstile(max(1, conf.api.threads // _THREADS_PER_CHECK)))


def _read_login(header: str | None) -> tuple[str, bytes] | None:
    """User and password; None for everything that is not a login (RFC 7617), NUL included."""
    scheme, _, token = (header or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(token.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    user, colon, password = text.partition(":")
    if not user or not colon or "\0" in text:
        return None
    return user, password.encode("utf-8")
