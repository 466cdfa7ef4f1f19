"""Write the golden samples, the published schemas and the schema hashes of this release: ``python -m tests.contract.regenerate``.

Run it after a version was added to ``compute_agent/contract/versions.py``. What an earlier version recorded is never rewritten; while a
version has not left the house in a release yet, ``--unreleased`` lets its records be written anew.
"""

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from compute_agent.contract import versions
from tests.contract import event_schemas, golden, schemas


def write_samples(*, unreleased: bool) -> list[str]:
    """Write this release's samples; returns the names of those that exist, differ, and were therefore left alone."""
    texts = {name: golden.format_sample(sample) for name, sample in golden.make_samples().items()}
    return _write(golden.SAMPLES / versions.RELEASE, texts, unreleased=unreleased)


def write_event_schemas(*, unreleased: bool) -> list[str]:
    """Write the schemas of this event version's notifications, also with better words; returns the names of those that were left alone."""
    recorded = event_schemas.read_texts(versions.EVENT_VERSION)
    texts, reworded = {}, set()
    for name, schema in event_schemas.build_schemas().items():
        texts[f"{name}.json"] = event_schemas.format_schema(schema)
        if name in recorded and schemas.drop_prose(json.loads(recorded[name])) == schemas.drop_prose(schema):
            reworded.add(f"{name}.json")
    return _write(event_schemas.SCHEMAS / versions.EVENT_VERSION, texts, unreleased=unreleased, reworded=reworded)


def _write(folder: Path, texts: Mapping[str, str], *, unreleased: bool, reworded: Collection[str] = ()) -> list[str]:
    refused = []
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_text() != text and not unreleased and name not in reworded:
            refused.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return refused


def write_schemas(*, unreleased: bool) -> list[str]:
    """Record hashes of versions that have none; returns the versions that differ and were left alone."""
    recorded = schemas.read_schemas()
    refused = []
    for contract, hashes in schemas.hash_models().items():
        version = schemas.CURRENT_VERSIONS[contract]
        known = recorded[contract].get(version)
        if known is not None and known != hashes and not unreleased:
            refused.append(f"{contract} {version}")
            continue
        recorded[contract][version] = hashes
    schemas.SCHEMAS.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")
    return refused


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the golden samples, published schemas and schema hashes of this release.")
    parser.add_argument("--unreleased", action="store_true", help="rewrite records of versions that no release has carried yet")
    arguments = parser.parse_args(argv)
    refused = [name for write in (write_samples, write_event_schemas, write_schemas) for name in write(unreleased=arguments.unreleased)]
    for name in refused:
        print(f"left alone, because it would change what is recorded: {name}", file=sys.stderr)
    if refused:
        print("add a version to compute_agent/contract/versions.py first (or --unreleased, if none of it was released)", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
