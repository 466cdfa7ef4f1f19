"""What every ``[api] auth_strategy`` is, and the table of them."""

from collections.abc import Callable
from typing import Protocol

from oslo_config import cfg

from api_gateway.context import Request
from api_gateway.faults import Fault
from api_gateway.identity import Caller
from compute_agent.contract.clock import Clock


class StrategyUnusable(Exception):
    """The strategy cannot work as it is configured; the text says what is missing."""


class Strategy(Protocol):
    """One way to establish who asks."""

    loopback_only: bool
    """Whether the gateway must be reachable from this machine only."""
    browsers_log_in: bool
    """Whether a browser sends what this strategy asks for by itself, for any page that wants to use the gateway."""

    def authenticate(self, request: Request) -> Caller:
        """Who asks.

        :raises Fault: 401 when that cannot be established, 403 when it can and is not enough to ask anything, 400 when the headers
            cannot be read, 503 when it cannot be found out now.
        """
        ...


def unauthorized(challenge: str) -> Fault:
    """401; ``challenge`` is the header ``WWW-Authenticate``. One sentence for every cause: a stranger learns nothing from it."""
    return Fault(401, "The request you have made requires authentication.", headers={"WWW-Authenticate": challenge})


# Each is imported when it is asked for: an installation needs only what its own strategy needs.


def _create_none(conf: cfg.ConfigOpts, _clock: Clock) -> Strategy:
    from api_gateway.auth.none import NoAuthentication

    return NoAuthentication(conf.api.default_user, conf.api.default_project)


def _create_http_basic(conf: cfg.ConfigOpts, clock: Clock) -> Strategy:
    from api_gateway.auth.http_basic import create_http_basic

    return create_http_basic(conf, clock)


def _create_keystone(conf: cfg.ConfigOpts, clock: Clock) -> Strategy:
    try:
        from api_gateway.auth.keystone import create_keystone
    except ModuleNotFoundError as error:
        raise StrategyUnusable(
            f"[api] auth_strategy keystone needs the extra 'keystone' (pip install crashcart[keystone]): {error}"
        ) from error
    return create_keystone(conf, clock)


STRATEGIES: dict[str, Callable[[cfg.ConfigOpts, Clock], Strategy]] = {
    "none": _create_none,
    "http_basic": _create_http_basic,
    "keystone": _create_keystone,
}


def create_strategy(conf: cfg.ConfigOpts, clock: Clock) -> Strategy:
    """The strategy that ``[api] auth_strategy`` names.

    :raises StrategyUnusable: it cannot work as it is configured.
    :raises api_gateway.reloading.Unreadable: a file that it needs cannot be used.
    """
    return STRATEGIES[conf.api.auth_strategy](conf, clock)
