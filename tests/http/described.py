"""Hold an answer against the OpenAPI document: does the operation have the status, and the answer the documented headers and body?"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from api_gateway.microversion import MAX_VERSION, find_requested
from api_gateway.openapi.document import build_document
from api_gateway.openapi.operation import Schema

_METHODS = frozenset({"get", "head", "post", "put", "patch", "delete"})


def list_deviations(method: str, path: str, version: str | None, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> list[str]:
    """What the document does not say; nothing for a path or method that it does not have.

    :param version: the Compute API version that the request asked for; the successes of another one than the document's are not looked at
    """
    operation = _find_operation(method, path)
    if operation is None or (status < 300 and path.startswith("/v2.1/servers") and version not in (MAX_VERSION, "latest")):
        return []
    described = operation["responses"].get(str(status))
    if described is None:
        return [f"{method} {path}: status {status} is not documented"]
    described = _resolve(described)
    found = {name.lower(): value for name, value in headers}
    deviations = [
        f"header {name} is missing or wrong: {found.get(name.lower())!r}"
        for name, header in described.get("headers", {}).items()
        if _is_wrong(_resolve(header), found.get(name.lower()))
    ]
    content = described.get("content")
    if method != "HEAD":
        deviations += _check_body(content, found.get("content-type", ""), body)
    return [f"{method} {path} answered {status}: {deviation}" for deviation in deviations]


def read_version(headers: Mapping[str, str]) -> str | None:
    """The Compute API version that request headers, by lower-case name, ask for."""
    return find_requested(headers.get("openstack-api-version"), headers.get("x-openstack-nova-api-version"))


def is_documented_body(method: str, template: str, body: Any) -> bool:
    """Whether the operation takes such a body."""
    content = _get_document()["paths"][template][method.lower()]["requestBody"]["content"]
    return _make_validator(json.dumps(content["application/json"]["schema"])).is_valid(body)


def find_template(path: str) -> str | None:
    """The documented path that this one is an instance of; one without parameters comes first."""
    paths = _get_document()["paths"]
    if path in paths:
        return path
    return next((template for template in paths if _compile(template).fullmatch(path)), None)


def _find_operation(method: str, path: str) -> Schema | None:
    template = find_template(path)
    if template is None or method.lower() not in _METHODS:
        return None
    operation: Schema | None = _get_document()["paths"][template].get(method.lower())
    return operation


def _is_wrong(header: Schema, value: str | None) -> bool:
    if value is None:
        return bool(header.get("required", False))
    numeric = header["schema"].get("type") == "integer"
    return not _make_validator(json.dumps(header["schema"])).is_valid(int(value) if numeric and value.isdecimal() else value)


def _check_body(content: Schema | None, content_type: str, body: bytes) -> list[str]:
    if content is None:
        return [] if body == b"" else [f"a body, where none is documented: {body[:80]!r}"]
    media_type = content_type.partition(";")[0].strip()
    if media_type not in content:
        return [f"content type {content_type!r}"]
    if "schema" not in content[media_type]:
        return []
    validator = _make_validator(json.dumps(content[media_type]["schema"]))
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(json.loads(body))]


@cache
def _make_validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "components": _get_document()["components"]})


@cache
def _get_document() -> Schema:
    return build_document()


@cache
def _compile(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{\w+}", "[^/]+", template))


def _resolve(described: Schema) -> Schema:
    reference = described.get("$ref")
    if reference is None:
        return described
    target: Any = _get_document()
    for step in reference.removeprefix("#/").split("/"):
        target = target[step]
    return dict(target)
