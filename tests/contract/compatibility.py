"""What a minor version must not do to the published schemas: readers of either version must understand what the other one says.

Keys may be added if they need not be there, words where words may be added, types of event. All else wants a major version.
"""

from collections.abc import Mapping
from typing import Any

from compute_agent.contract.units import UNIT_KEY

Schema = dict[str, Any]

REWORDED: frozenset[str] = frozenset()
"""Codes whose sentence was put in other words since a release published it, with the same meaning; each was looked at for that."""

_FIXED = (
    *("type", "format", "pattern", "const", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("contentMediaType", "contentEncoding", "x-severity", UNIT_KEY),
)
"""Keywords that stay as they are: what a value may be, and what it means."""
_NULL = {"type": "null"}


def list_breaks(before: Mapping[str, Schema], after: Mapping[str, Schema]) -> list[str]:
    """What ``after`` may not have done to ``before``; both are all schemas of one version by name."""
    breaks = [f"{name} is gone" for name in before if name not in after]
    for name in before:
        if name in after:
            breaks += _Comparison(before[name], after[name]).list_breaks(before[name], after[name], name)
    return list(dict.fromkeys(breaks))


class _Comparison:
    """Of two documents, for each of which ``$ref`` means something else."""

    def __init__(self, before: Schema, after: Schema) -> None:
        self._before = before
        self._after = after

    def list_breaks(self, before: Any, after: Any, place: str) -> list[str]:
        if isinstance(before, bool) or isinstance(after, bool):
            return [] if before == after else [f"{place} takes other keys: {before} became {after}"]
        before, after = _resolve(before, self._before), _resolve(after, self._after)
        breaks = [f"{place}: {key} {before.get(key)!r} became {after.get(key)!r}" for key in _FIXED if before.get(key) != after.get(key)]
        breaks += _compare_words(before, after, place)
        breaks += self._compare_keys(before, after, place)
        for key in ("items", "additionalProperties", "contentSchema"):
            if (key in before) != (key in after):
                breaks.append(f"{place}: {key} is in one of them only")
            elif key in before:
                breaks += self.list_breaks(before[key], after[key], f"{place}[]")
        return breaks + self._compare_choices(before, after, place)

    def _compare_keys(self, before: Schema, after: Schema, place: str) -> list[str]:
        old, new = before.get("properties", {}), after.get("properties", {})
        breaks = [f"{place}.{key} is gone" for key in old if key not in new]
        needed = [key for key in after.get("required", []) if key not in before.get("required", [])]
        breaks += [f"{place}.{key} must be there, and was not before" for key in needed]
        breaks += [f"{place}.{key} may be missing" for key in before.get("required", []) if key in new and key not in after["required"]]
        for key in old:
            if key in new:
                breaks += self.list_breaks(old[key], new[key], f"{place}.{key}")
        return breaks

    def _compare_choices(self, before: Schema, after: Schema, place: str) -> list[str]:
        """Of what may be null, or of one of several kinds."""
        old, new = ([part for part in schema.get("anyOf", []) if "enum" not in part] for schema in (before, after))
        if len(old) != len(new) or (_NULL in old) != (_NULL in new):
            return [f"{place} may be of other kinds than before"]
        return [line for one, other in zip(old, new, strict=True) for line in self.list_breaks(one, other, place)]


def _resolve(schema: Schema, document: Schema) -> Schema:
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return document["$defs"][name] if name else schema


def _compare_words(before: Schema, after: Schema, place: str) -> list[str]:
    (old, was_open), (new, is_open) = _find_words(before), _find_words(after)
    if (old is None) != (new is None) or was_open != is_open:
        return [f"{place}: which words there may be was settled otherwise"]
    if old is None or new is None:
        return []
    breaks = [f"{place}: the word {word!r} is gone" for word in old["enum"] if word not in new["enum"]]
    if not is_open:
        breaks += [f"{place}: the word {word!r} came, where none may" for word in new["enum"] if word not in old["enum"]]
    meanings = new.get("x-meanings", {})
    for word, meaning in old.get("x-meanings", {}).items():
        if word in meanings and meanings[word] != meaning and (word not in REWORDED or _split(meanings[word]) != _split(meaning)):
            breaks.append(f"{place}: {word!r} meant {meaning!r} and now {meanings[word]!r}; a code keeps its meaning, take another")
    return breaks


def _find_words(schema: Schema) -> tuple[Schema | None, bool]:
    """The part with the known words, and whether others are allowed too."""
    if "enum" in schema:
        return schema, False
    return next(((part, True) for part in schema.get("anyOf", []) if "enum" in part), (None, False))


def _split(meaning: str) -> str:
    """The ending of a code."""
    return meaning.partition(":")[0]
