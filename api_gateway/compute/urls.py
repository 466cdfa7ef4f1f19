"""The project that older clients put into the URL: it must be the caller's own."""

import re

from api_gateway.context import Request
from api_gateway.faults import bad_request, not_found

_PROJECT_ID = re.compile(r"[0-9a-f-]+")


def read_project(request: Request, project: str | None) -> None:
    """Remember the URL's project for :func:`check_project`.

    :raises Fault: 404 when the segment cannot be a project, so that a mistyped resource is not taken for one.
    """
    if project is None:
        return
    if project != request.context.identity.project and not _PROJECT_ID.fullmatch(project):
        raise not_found()
    request.context.url_project = project


def check_project(request: Request) -> None:
    """:raises Fault: 400 when the URL names another project than the caller's."""
    named, own = request.context.url_project, request.context.identity.project
    if named is not None and named != own:
        raise bad_request(f"Malformed request URL: URL's project_id '{named}' doesn't match Context's project_id '{own}'")
