"""Write a body."""

from typing import Any

import falcon

from api_gateway.ascii_json import write_json


def answer_json(response: falcon.Response, body: Any, status: int = 200) -> None:
    response.status = status
    response.content_type = falcon.MEDIA_JSON
    response.data = write_json(body)
