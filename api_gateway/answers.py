"""Write a body."""

import json
from typing import Any

import falcon


def answer_json(response: falcon.Response, body: Any, status: int = 200) -> None:
    """ASCII JSON: a name may hold what no UTF-8 body can carry."""
    response.status = status
    response.content_type = falcon.MEDIA_JSON
    response.data = json.dumps(body, separators=(",", ":")).encode("ascii")
