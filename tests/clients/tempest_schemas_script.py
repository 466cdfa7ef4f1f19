"""tempest's ServersClient with its response schemas: ``tempest_schemas_script.py URL TOKEN VERSIONS SERVERS``, the last two by commas.

Each server is asked for in every way that the client has for our slice; prints as JSON how many answers were valid and what was not.
Runs in the environment of the clients.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from tempest.lib import exceptions
from tempest.lib.services.compute import base_compute_client
from tempest.lib.services.compute.servers_client import ServersClient


class Token:
    """The three methods that a client wants of its authentication."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token

    def auth_request(self, method: str, url: str, headers: Any = None, body: Any = None, filters: Any = None) -> tuple[str, Any, Any]:
        return f"{self._url}/{url}", {**(headers or {}), "X-Auth-Token": self._token}, body

    def get_auth(self) -> tuple[str, dict[str, Any]]:
        return self._token, {}

    def base_url(self, filters: Any = None, auth_data: Any = None) -> str:
        return self._url


def ask_everything(client: ServersClient, servers: list[str], check: Callable[..., Any]) -> None:
    check("list", client.list_servers)
    check("page", client.list_servers, limit=1)
    check("detail", client.list_servers, detail=True)
    check("page of detail", client.list_servers, detail=True, limit=1)
    for server in servers:
        check("show", client.show_server, server)
        check("diagnostics", client.show_server_diagnostics, server)
        listed = check("actions", client.list_instance_actions, server)
        for action in listed["instanceActions"][:4] if listed else ():
            check("action", client.show_instance_action, server, action["request_id"])
    check("lock", client.lock_server, servers[0])
    check("show", client.show_server, servers[0])
    check("unlock", client.unlock_server, servers[0])


def main(url: str, token: str, versions: str, servers: str) -> None:
    valid, refused, invalid = 0, 0, []

    def check(what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal valid, refused
        try:
            answer = call(*arguments, **options)
        except (exceptions.Forbidden, exceptions.Conflict):  # a member, or diagnostics of a server that is shut off
            refused += 1
            return None
        except exceptions.RestClientException as error:
            invalid.append(f"{base_compute_client.COMPUTE_MICROVERSION} {what}: {type(error).__name__}: {str(error)[:600]}")
            return None
        valid += 1
        return answer

    for version in versions.split(","):
        base_compute_client.COMPUTE_MICROVERSION = version
        ask_everything(ServersClient(Token(url, token), "compute", "region"), servers.split(","), check)
    print(json.dumps({"valid": valid, "refused": refused, "invalid": invalid}))


main(*sys.argv[1:])
