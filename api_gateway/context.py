"""What one request carries from the middleware to its handler."""

import falcon

from api_gateway.identity import Identity


class RequestContext:
    """Filled in by the middleware, one after the other; see the list in ``wsgi.py``.

    ``version`` is the minor number of the Compute API version in force (2.``version``), 1 where none was asked for.
    ``legacy`` marks the ``/v2`` prefix, which knows no versions. ``version_headers`` is what the answer says about them.
    ``url_project`` is the project in the URL, where it has one.
    """

    __slots__ = ("global_request_id", "identity", "legacy", "request_id", "url_project", "version", "version_headers")

    def __init__(self) -> None:
        self.request_id = ""
        self.global_request_id: str | None = None
        self.identity: Identity = Identity.nobody()
        self.version = 1
        self.legacy = False
        self.version_headers: str | None = None
        self.url_project: str | None = None


class Request(falcon.Request):
    """A request whose context has a known shape."""

    context_type = RequestContext
    context: RequestContext  # type: ignore[assignment]
