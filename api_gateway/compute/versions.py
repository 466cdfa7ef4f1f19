"""Version documents: what a client reads before anything else, without authentication and without version headers."""

from typing import Any

import falcon

from api_gateway.answers import answer_json
from api_gateway.context import Request
from api_gateway.gateway import Gateway
from api_gateway.microversion import MAX_VERSION, MIN_VERSION

_DESCRIBED_BY = {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/api-ref/compute/"}
_VERSIONS: dict[str, dict[str, str]] = {
    "v2.0": {"status": "DEPRECATED", "version": "", "min_version": "", "updated": "2011-01-21T11:33:21Z"},
    "v2.1": {"status": "CURRENT", "version": MAX_VERSION, "min_version": MIN_VERSION, "updated": "2013-07-23T11:33:21Z"},
}
_PATHS = {"v2.0": "v2", "v2.1": "v2.1"}


def list_versions(_gateway: Gateway, request: Request, response: falcon.Response) -> None:
    answer_json(response, {"versions": [_view(request, version) for version in _VERSIONS]})


def show_version(_gateway: Gateway, request: Request, response: falcon.Response) -> None:
    version = "v2.1" if request.path.startswith("/v2.1") else "v2.0"
    view = _view(request, version)
    view["links"].append(_DESCRIBED_BY)
    view["media-types"] = [{"base": "application/json", "type": f"application/vnd.openstack.compute+json;version={version[1:]}"}]
    answer_json(response, {"version": view})


def _view(request: Request, version: str) -> dict[str, Any]:
    return {"id": version, "links": [{"rel": "self", "href": f"{request.prefix}/{_PATHS[version]}/"}], **_VERSIONS[version]}
