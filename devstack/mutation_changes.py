"""What mutmut changed, read out of the modules that it wrote: each change with its difference, and those that need no test.

Only a change that cannot be behaviour is left out, by rule, each rule with its reason:

* the label of a transaction of the journal: it names the commit in logs, and where a simulation crashes;
* the case of words of the journal's statements: SQLite knows its keywords, tables, columns and row keys in any (what stands in quotes,
  or is the name of a parameter, is compared);
* the words of a sentence in a ``raise``, longer than two words: a person reads it, and what kind of error it is stays.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MARK = "__mutmut_"
_SENTENCE = re.compile(r"\S\s+\S+\s+\S")
_CASE_MATTERS = re.compile(r"'[^']*'|\?\d*|:\w+")


@dataclass(frozen=True)
class Change:
    """One changed function. ``harmless``: the rule by which it is left out, or empty."""

    name: str
    difference: str
    harmless: str


def read_changes(tree: Path, path: Path) -> list[Change]:
    """All changes of the module at ``path`` (relative to ``tree``), in the order in which mutmut made them."""
    text = (tree / "mutants" / path).read_text()
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    functions = {node.name: node for node in _list_functions(ast.parse(text)) if _MARK in node.name}
    lines = text.splitlines()
    changes = []
    for name, changed in functions.items():
        stem, _, number = name.rpartition(_MARK)
        if number == "orig":
            continue
        original = functions[f"{stem}{_MARK}orig"]
        difference = "\n".join(_compare(_cut(lines, original), _cut(lines, changed)))
        rule = _find_rule(original, changed, is_sqlite=path.name.startswith("journal"))
        changes.append(Change(f"{module}.{name}", difference, rule))
    return changes


def _list_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _cut(lines: list[str], function: ast.FunctionDef) -> list[str]:
    """Without its name, which always differs."""
    text = "\n".join(lines[function.lineno - 1 : function.end_lineno])
    return text.replace(function.name, function.name.partition(_MARK)[0]).splitlines()


def _compare(before: list[str], after: list[str]) -> list[str]:
    return list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]


def _find_rule(original: ast.FunctionDef, changed: ast.FunctionDef, *, is_sqlite: bool) -> str:
    difference = _find_difference(list(original.body), list(changed.body), ())
    if difference is None:
        return ""
    before, after, around = difference
    if any(isinstance(node, ast.Call) and _is_journal_transaction(node) and before in node.args for node in around):
        return "label of a transaction"
    if not (isinstance(before, ast.Constant) and isinstance(after, ast.Constant)):
        return ""
    if not (isinstance(before.value, str) and isinstance(after.value, str)):
        return ""
    if is_sqlite and (_is_statement(around) or _is_key_of_row(around)) and _fold(before.value) == _fold(after.value):
        return "case of SQL"
    if any(isinstance(node, ast.Raise) for node in around) and _SENTENCE.search(before.value):
        return "sentence of an error"
    return ""


def _find_difference(before: object, after: object, around: tuple[ast.AST, ...]) -> tuple[ast.AST, ast.AST, tuple[ast.AST, ...]] | None:
    """The innermost pair of nodes that differs, with what they stand in; None where more than one value was changed."""
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return None
        pairs = [pair for pair in zip(before, after, strict=True) if _dump(pair[0]) != _dump(pair[1])]
        return _find_difference(*pairs[0], around) if len(pairs) == 1 else None
    if not (isinstance(before, ast.AST) and isinstance(after, ast.AST)):
        return None
    if type(before) is type(after):
        inner = [
            _find_difference(getattr(before, field), getattr(after, field), (*around, before))
            for field in before._fields
            if _dump(getattr(before, field, None)) != _dump(getattr(after, field, None))
        ]
        if len(inner) == 1 and inner[0] is not None:
            return inner[0]
    return before, after, around


def _dump(value: object) -> str:
    if isinstance(value, list):
        return repr([_dump(each) for each in value])
    return ast.dump(value) if isinstance(value, ast.AST) else repr(value)


def _is_journal_transaction(call: ast.Call) -> bool:
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "transaction"):
        return False
    return ast.unparse(call.func.value).lstrip("_").endswith("journal")


def _is_statement(around: tuple[ast.AST, ...]) -> bool:
    return any(isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute" for node in around)


def _is_key_of_row(around: tuple[ast.AST, ...]) -> bool:
    return isinstance(around[-1], ast.Subscript) and isinstance(around[-1].value, ast.Name) and around[-1].value.id == "row"


def _fold(statement: str) -> tuple[str, list[str]]:
    return statement.lower(), _CASE_MATTERS.findall(statement)
