"""Strategy ``keystone``: tokens of an OpenStack Identity service, validated by keystonemiddleware's ``auth_token``.

The middleware runs where every strategy runs, behind the request ids and the size limit and before everything else, around an application
that only takes down whom it let through. So its refusals go out like all others, and nothing that a client put into an identity header is
ever read.
"""

import logging
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from keystoneauth1 import exceptions as keystone_errors
from keystonemiddleware import auth_token
from oslo_config import cfg

from api_gateway.auth.confirmed import ConfirmedTokens
from api_gateway.auth.strategy import StrategyUnusable, unauthorized
from api_gateway.auth.turnstile import Turnstile
from api_gateway.context import Request
from api_gateway.faults import Fault, forbidden
from api_gateway.identity import Caller
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

GROUP = "keystone_authtoken"
_TIMEOUT_SECONDS = 5
_RETRIES = 1
_SERVICE_TYPE = "compute"
_AWAY = "The identity service cannot be reached, so nobody knows who you are. Try again."
_CONFIRMED = "crashcart.confirmed"
_REMEMBERED_SECONDS = 5.0
"""The middleware takes longer for a token that it remembers than all the rest of a request; so much longer a revoked one is believed."""
_REMEMBERED_TOKENS = 1024
_SPARE_THREADS = 2
"""Threads of a worker that never wait for Keystone: version documents and the healthcheck are answered whatever it does."""


class Keystone:
    """Asks Keystone whose token it is; the middleware remembers the answer for ``token_cache_time``, and we whose it was for seconds."""

    loopback_only = False
    browsers_log_in = False

    def __init__(self, protocol: auth_token.AuthProtocol, turnstile: Turnstile, confirmed: ConfirmedTokens) -> None:
        """:param protocol: wrapped around :func:`note_confirmed`"""
        self._protocol = protocol
        self._turnstile = turnstile
        self._confirmed = confirmed

    def authenticate(self, request: Request) -> Caller:
        token = request.get_header("X-Auth-Token")
        if token is None or request.get_header("X-Service-Token") is not None:
            return _read_caller(self._confirm(request))
        known = self._confirmed.find(token)
        if known is not None:
            return known
        environ = self._confirm(request)
        caller = _read_caller(environ)
        self._confirmed.add(token, environ["keystone.token_info"]["token"], caller)
        return caller

    def _confirm(self, request: Request) -> WSGIEnvironment:
        """What the middleware says of the request that it lets through.

        :raises Fault: 401 when it does not, 503 when Keystone cannot be asked.
        """
        confirmed: list[WSGIEnvironment] = []
        environ = {**request.env, _CONFIRMED: confirmed}
        answer = _Answer()
        with self._turnstile.enter():
            try:
                for _ in self._protocol(environ, answer.start):
                    pass
            except (keystone_errors.ClientException, auth_token.ServiceError) as error:
                LOG.error("a token could not be validated: %s", error)
                raise Fault(503, _AWAY) from error
        if confirmed:
            return confirmed[0]
        if answer.status == 401:
            raise unauthorized(answer.challenge)
        raise Fault(503, _AWAY)


class _Answer:
    """What the middleware says when it lets nobody through."""

    def __init__(self) -> None:
        self.status = 0
        self.challenge = "Keystone"

    def start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        self.status = int(status.split()[0])
        self.challenge = next((value for name, value in headers if name.lower() == "www-authenticate"), self.challenge)
        return lambda _chunk: None


def note_confirmed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application inside the middleware. With ``delay_auth_decision`` it would let strangers through, too."""
    if environ.get("HTTP_X_IDENTITY_STATUS") == "Confirmed":
        environ[_CONFIRMED].append(environ)
        start_response("204 No Content", [])
    else:
        start_response("401 Unauthorized", [])
    return []


def create_keystone(conf: cfg.ConfigOpts, clock: Clock) -> Keystone:
    """With the middleware's own options, registered on ``conf``.

    :raises StrategyUnusable: the options do not say how to reach Keystone.
    """
    for group, options in auth_token.list_opts():
        conf.register_opts(options, group=group)
    conf.set_default("http_connect_timeout", _TIMEOUT_SECONDS, group=GROUP)
    conf.set_default("http_request_max_retries", _RETRIES, group=GROUP)
    conf.set_default("service_type", _SERVICE_TYPE, group=GROUP)
    try:
        protocol = auth_token.AuthProtocol(note_confirmed, {"oslo_config_config": conf, "log_name": auth_token.__name__})
    except (keystone_errors.ClientException, auth_token.ConfigurationError) as error:
        raise StrategyUnusable(f"[{GROUP}] cannot be used: {error}") from error
    if not conf[GROUP].auth_type and not conf[GROUP].auth_section:
        raise StrategyUnusable(f"[{GROUP}] auth_type is not set: it says how the gateway logs in to Keystone (password, say)")
    confirmed = ConfirmedTokens(clock, seconds=min(_REMEMBERED_SECONDS, conf[GROUP].token_cache_time), size=_REMEMBERED_TOKENS)
    return Keystone(protocol, Turnstile(max(1, conf.api.threads - _SPARE_THREADS)), confirmed)


def _read_caller(environ: WSGIEnvironment) -> Caller:
    """Whom the middleware confirmed. Taken from its token object: in ``X-Roles`` a comma in a role's name would make two of it."""
    token = environ["keystone.token_auth"].user
    if token.project_id is None:
        raise forbidden("The token is not scoped to a project; ask for one that is.")
    return Caller(
        token.user_id,
        token.project_id,
        frozenset(role.lower() for role in token.role_names),
        user_domain=token.user_domain_id,
        project_domain=token.project_domain_id,
    )
