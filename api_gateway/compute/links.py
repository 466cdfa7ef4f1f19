"""Links to what an answer talks about."""

from urllib.parse import quote

from api_gateway.context import Request


def link_server(request: Request, server: str) -> list[dict[str, str]]:
    prefix = request.prefix
    version = "v2" if request.context.legacy else "v2.1"
    return [
        {"rel": "self", "href": f"{prefix}/{version}/servers/{server}"},
        {"rel": "bookmark", "href": f"{prefix}/servers/{server}"},
    ]


def link_flavor(request: Request, flavor: str) -> list[dict[str, str]]:
    return [{"rel": "bookmark", "href": f"{request.prefix}/flavors/{quote(flavor, safe='')}"}]
