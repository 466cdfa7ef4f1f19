"""Mutation testing: is every line that keeps the promises looked at by a test that would miss it?

mutmut changes one thing at a time in the modules below, in a copy of the tree, and runs the tests that come through there. What no
test notices is printed with its difference. It takes hours of CPU; ``doc/reliability.rst`` keeps the results.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from devstack.checks import ROOT
from devstack.stack import DEFAULT_STATE
from devstack.steps import StepFailed, Steps

MODULES = (
    "compute_agent/actions.py",
    "compute_agent/crash_dump.py",
    "compute_agent/endpoint.py",
    "compute_agent/journal*.py",
    "compute_agent/reporter.py",
    "api_gateway/applying.py",
    "api_gateway/dispatcher.py",
    "api_gateway/recorder.py",
)
_AGENT_TESTS = ("actions", "action_*", "endpoint*", "firing*", "host_dumps", "journal_*", "observer", "reporter", "watchdog_*", "cast_gate")
_GATEWAY_TESTS = ("dispatcher", "foreign_events", "ownership", "recorder*", "senders", "store_events", "store_reports")
_COPIED = ("tests", "devstack", "doc", "setup.cfg", "README.rst", "LICENSE", "CHANGELOG.rst")
# What is only read by people: another text in the log is no other behaviour.
_NOT_CHANGED = (r"LOG\.", r"self\._log\(")
_PYTEST = ("-p", "no:schemathesis", "-p", "no:xdist", "--timeout=60")
_KILLED = ("killed", "timeout")
_RESULT = re.compile(r"^\s*(\S+): (survived|no tests|killed|timeout|suspicious|skipped|segfault)$")


def run_mutations(patterns: Sequence[str], state_dir: Path, steps: Steps) -> int:
    """Change what the patterns name (``compute_agent.actions*``; everything without any) and print what survived; the exit code.

    :raises StepFailed: mutmut is not installed, or the tests fail without any change.
    """
    tree = state_dir / "mutation"
    command = Path(sys.executable).parent / "mutmut"
    if not command.exists():
        raise StepFailed("mutmut is not installed", advice="name the extra in CRASHCART_EXTRAS=…,mutate (setup.cfg)")
    with steps.step("a copy of the tree"):
        _copy_tree(tree)
    log = state_dir / "mutation.log"
    steps.say(f"one process at the lowest priority; its log: {log}")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w") as output:
        argv = ["nice", "-n", "19", str(command), "run", "--max-children", "1", *patterns]
        done = subprocess.run(argv, cwd=tree, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise StepFailed("mutmut failed", log=log, advice="do the selected tests pass as they are?")
    results = _run_mutmut(command, tree, "results", "--all", "true")
    return _report(command, tree, results, patterns, steps)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``devstack/mutate``; the exit code."""
    parser = argparse.ArgumentParser(prog="devstack/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="which changes, as compute_agent.actions*; everything without any")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="directory of the copy and of the log")
    arguments = parser.parse_args(argv)
    try:
        return run_mutations(arguments.patterns, arguments.state.resolve(), Steps())
    except StepFailed as failure:
        print(f"\n{failure.explain()}", file=sys.stderr)
        return 1


def _copy_tree(tree: Path) -> None:
    """The sources as they are now; what mutmut found out before stays, and is used for what did not change since."""
    tree.mkdir(parents=True, exist_ok=True)
    skipped = shutil.ignore_patterns("__pycache__", ".state", ".cache", ".venv")
    for name in ("compute_agent", "api_gateway", *_COPIED):
        if (ROOT / name).is_dir():
            shutil.rmtree(tree / name, ignore_errors=True)
            shutil.copytree(ROOT / name, tree / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, tree / name)
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + _write_settings())


def _write_settings() -> str:
    tests = [f"tests/unit/agent/test_{name}.py" for name in _AGENT_TESTS]
    tests += [f"tests/unit/gateway/test_{name}.py" for name in _GATEWAY_TESTS]
    files = sorted(str(path.relative_to(ROOT)) for pattern in tests for path in ROOT.glob(pattern))
    settings = {
        "source_paths": ["compute_agent", "api_gateway"],
        "only_mutate": list(MODULES),
        "also_copy": list(_COPIED),
        "do_not_mutate_patterns": list(_NOT_CHANGED),
        "pytest_add_cli_args": list(_PYTEST),
        "pytest_add_cli_args_test_selection": files,
    }
    lines = [f"{name} = [{', '.join(repr(value) for value in values)}]" for name, values in settings.items()]
    return "\n".join(["", "[tool.mutmut]", *lines, "track_dependencies = false", "use_git_change_detection = false", ""])


def _report(command: Path, tree: Path, results: str, patterns: Sequence[str], steps: Steps) -> int:
    counted: dict[str, Counter[str]] = {}
    survivors = []
    for match in filter(None, map(_RESULT.match, results.splitlines())):
        name, verdict = match.groups()
        module = name.rpartition(".")[0]
        counted.setdefault(module, Counter())["killed" if verdict in _KILLED else "survived"] += 1
        if verdict not in _KILLED:
            survivors.append(name)
    for name in survivors:
        steps.say(_run_mutmut(command, tree, "show", name))
    for module, counts in sorted(counted.items()):
        steps.say(f"{module:40} {counts['killed']:5} of {counts.total():5} killed ({100 * counts['killed'] / counts.total():.1f} %)")
    total = sum((counts for counts in counted.values()), Counter[str]())
    steps.say(f"{total['killed']} of {total.total()} changes were noticed{'' if not patterns else ' in ' + ', '.join(patterns)}")
    return 0 if counted else 1


def _run_mutmut(command: Path, tree: Path, *arguments: str) -> str:
    return subprocess.run([str(command), *arguments], cwd=tree, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
