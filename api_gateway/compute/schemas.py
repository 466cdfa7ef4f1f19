"""What the values in request bodies must be, in a Compute API's words."""

from typing import Any

from api_gateway.faults import bad_request


def check_null(name: str, value: Any) -> None:
    """:raises Fault: 400 unless the value is null."""
    if value is not None:
        raise bad_request(f"Invalid input for field/attribute {name}. Value: {value}. {value!r} is not of type 'null'")
