"""Schema hashes: one per model of the contract, kept by the version that has it.

``schemas.json`` is ``{"rpc": {version: {model: hash}}, "event": {...}}``. A version that is in it never changes again: a model that changes
needs a new version in ``compute_agent/contract/versions.py`` first.
"""

import hashlib
import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

from compute_agent.contract import diagnostics, events, models, versions
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import ActionRequest, BlackBoxChunk, EventRange, PingReply
from compute_agent.contract.wire import WireModel

SCHEMAS = Path(__file__).parent / "schemas.json"

RPC_MODELS: frozenset[type[WireModel]] = frozenset({ActionRequest, BlackBoxChunk, DiagnosticsReply, EventRange, PingReply})
"""Models that travel as RPC arguments and replies; every other model travels in notifications."""

CURRENT_VERSIONS = {"rpc": versions.RPC_API_VERSION, "event": versions.EVENT_VERSION}


def list_models() -> list[type[WireModel]]:
    """Every model that the contract defines."""
    found = {
        model
        for module in (models, diagnostics, events)
        for _, model in inspect.getmembers(module, inspect.isclass)
        if issubclass(model, WireModel) and model is not WireModel
    }
    return sorted(found, key=lambda model: model.__name__)


def drop_prose(schema: Any) -> Any:
    """The schema without titles and descriptions: better words are no change of the contract."""
    if isinstance(schema, dict):
        return {
            # Below "properties" and "$defs" the keys are names of ours, and one of them may well be "title".
            key: {name: drop_prose(part) for name, part in value.items()} if key in ("properties", "$defs") else drop_prose(value)
            for key, value in schema.items()
            if key not in ("title", "description")
        }
    if isinstance(schema, list):
        return [drop_prose(part) for part in schema]
    return schema


@cache
def hash_schema(model: type[WireModel]) -> str:
    """A digest of what ``model`` takes: keys, types, constraints, words, defaults."""
    body = json.dumps(drop_prose(model.model_json_schema()), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def hash_models() -> dict[str, dict[str, str]]:
    """{"rpc": {model: hash}, "event": {model: hash}} of the code as it is."""
    hashes: dict[str, dict[str, str]] = {"rpc": {}, "event": {}}
    for model in list_models():
        hashes["rpc" if model in RPC_MODELS else "event"][model.__name__] = hash_schema(model)
    return hashes


def read_schemas() -> dict[str, dict[str, dict[str, str]]]:
    """The recorded hashes; empty ones when there is no file yet."""
    if not SCHEMAS.exists():
        return {"rpc": {}, "event": {}}
    schemas: dict[str, dict[str, dict[str, str]]] = json.loads(SCHEMAS.read_text())
    return schemas


def find_difference(recorded: dict[str, dict[str, dict[str, str]]], current: dict[str, dict[str, str]]) -> str | None:
    """What differs between the recorded hashes and the code, with what to do; None when nothing does."""
    for contract, version in CURRENT_VERSIONS.items():
        known = recorded[contract].get(version)
        if known is None:
            return f"{contract} version {version} has no recorded schema hashes; record them: python -m tests.contract.regenerate"
        changed = sorted(name for name in known.keys() | current[contract].keys() if known.get(name) != current[contract].get(name))
        if changed:
            return (
                f"{', '.join(changed)} changed, but the {contract} version is still {version}. Peers of the last release speak {version} "
                f"too and would not understand. Add a row to the {contract} history in compute_agent/contract/versions.py (a minor "
                "for added optional keys, methods or words; a major to remove or retype), name it in RELEASES, make the sender keep to "
                "the old form below that version, then run: python -m tests.contract.regenerate"
            )
    return None
