"""The small schemas that both APIs are made of."""

from api_gateway.openapi.operation import Schema, describe_list, describe_object

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
SERVER_ID: Schema = {"type": "string", "format": "uuid", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
REQUEST_ID: Schema = {"type": "string", "pattern": "^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
URI: Schema = {"type": "string", "format": "uri"}
TIME: Schema = {"type": "string", "format": "date-time", "pattern": r"^[0-9-]{10}T[0-9:]{8}\.[0-9]{6}Z$"}
"""As ``/v1`` writes it."""
LINKS: Schema = describe_list(describe_object({"rel": STRING, "href": URI}))
NEXT_LINKS: Schema = {**describe_list(describe_object({"rel": {"const": "next"}, "href": URI})), "maxItems": 1}
