"""The middleware that establishes who asks, except where anybody may."""

import falcon

from api_gateway.auth.strategy import Strategy
from api_gateway.context import Request
from api_gateway.policy.rule_set import Policy
from compute_agent.contract.logs import LineContext

OPEN_PATHS = frozenset({"/", "/v2.1", "/v2.1/", "/v2", "/v2/", "/healthcheck"})
"""Version documents and the healthcheck: answered without authentication."""


class Authentication:
    """Gives each request its identity, and every log line written for it the request's ids, user and project."""

    def __init__(self, strategy: Strategy, policy: Policy) -> None:
        self._strategy = strategy
        self._policy = policy

    def process_request(self, request: Request, _response: falcon.Response) -> None:
        _log_as(request)
        if request.path not in OPEN_PATHS:
            request.context.identity = self._policy.identify(self._strategy.authenticate(request))
            _log_as(request)


def _log_as(request: Request) -> None:
    context = request.context
    identity = context.identity
    LineContext(context.request_id, context.global_request_id, identity.user or None, identity.project or None)
