"""Mutation testing: is every line that keeps the promises looked at by a test that would miss it?

mutmut changes one thing at a time in the modules below, in a copy of the tree, and runs the unit tests that come through there; what
they do not notice is then played in worlds of the simulation. What nothing notices is printed with its difference. All of it takes
hours of CPU; ``doc/reliability.rst`` keeps the results.

What was noticed once stays so until its function changes; what was not is tried again. Remove the directory ``mutation`` of the state
to begin from nothing.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from devstack.checks import ROOT
from devstack.mutation_changes import Change, read_changes
from devstack.mutation_parts import PARTS, Part
from devstack.stack import DEFAULT_STATE
from devstack.steps import StepFailed, Steps

_COPIED = ("tests", "devstack", "doc", "setup.cfg", "README.rst", "LICENSE", "CHANGELOG.rst")
# What is only read by people: another text in the log is no other behaviour.
_NOT_CHANGED = (r"LOG\.", r"self\._log\(")
_PYTEST = ("-p", "no:schemathesis", "-p", "no:xdist", "-p", "no:cacheprovider", "--timeout=30")
_NOTICED = ("killed", "timeout")
_RESULT = re.compile(r"^\s*(\S+): (.+)$")


class Mutation:
    """One run over a part: the changes that ``patterns`` name (``compute_agent.actions.*``; all without any).

    :param sample: so many changes of each module, drawn with ``seed``; all when None
    """

    def __init__(self, name: str, patterns: Sequence[str], state_dir: Path, steps: Steps, sample: int | None, seed: int) -> None:
        self._part = PARTS[name]
        self._patterns = list(patterns) or ["*"]
        self._modules = [path for path in self._part.list_modules() if self._is_asked(_dot(path))]
        self._tree = state_dir / "mutation" / name
        self._log = state_dir / "mutation" / f"{name}.log"
        self._played_file = state_dir / "mutation" / f"{name}-worlds.json"
        self._steps = steps
        self._sample = sample
        self._seed = seed
        self._command = Path(sys.executable).parent / "mutmut"

    def run(self) -> bool:
        """Try what is asked for and print what was found; False when this part has nothing of it.

        :raises StepFailed: mutmut is not installed, or the tests or the worlds fail without any change.
        """
        if not self._modules:
            return False
        if not self._command.exists():
            raise StepFailed("mutmut is not installed", advice="name the extra in CRASHCART_EXTRAS=…,mutate (setup.cfg)")
        with self._steps.step("a copy of the tree"):
            _copy_tree(self._tree, self._part)
        self._log.write_text("")
        self._steps.say(f"one process at the lowest priority; its log: {self._log}")
        if not all(self._is_written(path) for path in self._modules):
            # Else it asks new tests alone what they come through, and a new function has none.
            (self._tree / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
            with self._steps.step("mutmut writes its modules and looks which test comes through where"):
                self._run_mutmut([f"{_dot(self._modules[0])}.*__mutmut_1"])  # it does not do that alone
        changes = {_dot(path): self._choose(read_changes(self._tree, path)) for path in self._modules}
        tried = [change for chosen in changes.values() for change in chosen if not change.harmless]
        played = self._read_played(tried)
        with self._steps.step("unit tests"):
            verdicts = self._read_verdicts()
            waiting = [change.name for change in tried if verdicts.get(change.name) not in _NOTICED and change.name not in played]
            if waiting:
                self._run_mutmut(waiting)
        verdicts = self._read_verdicts()
        with self._steps.step("worlds of the simulation"):
            self._play([change for change in tried if verdicts[change.name] not in _NOTICED and change.name not in played], played)
        self._tell(changes, verdicts, played)
        return True

    def _is_asked(self, module: str) -> bool:
        return any(fnmatch.fnmatch(module, pattern) or pattern.startswith(f"{module}.") for pattern in self._patterns)

    def _is_written(self, path: Path) -> bool:
        written = self._tree / "mutants" / path
        return written.with_name(f"{path.name}.meta").exists() and written.stat().st_mtime > (self._tree / path).stat().st_mtime

    def _choose(self, changes: list[Change]) -> list[Change]:
        asked = [change for change in changes if any(fnmatch.fnmatch(change.name, f"{pattern}*") for pattern in self._patterns)]
        tried = [change for change in asked if not change.harmless]
        if self._sample is None or len(tried) <= self._sample:
            return asked
        # Each by itself: when a module changes, what else was drawn of it stays drawn.
        drawn = sorted(tried, key=lambda change: random.Random(f"{self._seed} {change.name}").random())[: self._sample]
        return [change for change in asked if change.harmless or change in drawn]

    def _run_mutmut(self, names: Iterable[str]) -> None:
        argv = ["nice", "-n", "19", str(self._command), "run", "--max-children", "1", *names]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with self._log.open("a") as output:
            done = subprocess.run(argv, cwd=self._tree, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise StepFailed("mutmut failed", log=self._log, advice="do the selected tests pass as they are?")

    def _read_verdicts(self) -> dict[str, str]:
        argv = [str(self._command), "results", "--all", "true"]
        results = subprocess.run(argv, cwd=self._tree, stdout=subprocess.PIPE, text=True, check=True).stdout
        return {match[1]: match[2] for match in map(_RESULT.match, results.splitlines()) if match}

    # The simulation

    def _read_played(self, changes: Iterable[Change]) -> dict[str, str]:
        """The verdicts of an earlier run on what is still the same change and was noticed."""
        if not self._played_file.exists():
            return {}
        known: dict[str, list[str]] = json.loads(self._played_file.read_text())
        return {
            change.name: known[change.name][1]
            for change in changes
            if change.name in known and known[change.name][0] == change.difference and known[change.name][1] in _NOTICED
        }

    def _play(self, changes: Sequence[Change], played: dict[str, str]) -> None:
        """Play them, and keep each verdict at once: somebody may stop a run of hours."""
        if not changes:
            return
        differences = {change.name: change.difference for change in changes}
        known = json.loads(self._played_file.read_text()) if self._played_file.exists() else {}
        tree = self._tree / "mutants"
        names = self._tree / "names"
        names.write_text("".join(f"{name}\n" for name in differences))
        argv = ["nice", "-n", "19", sys.executable, "-m", "tests.simulation.mutants", str(names)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        with (
            self._log.open("a") as log,
            subprocess.Popen(argv, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as player,
        ):
            assert player.stdout is not None
            for line in player.stdout:
                name, verdict = json.loads(line)
                played[name] = verdict
                known[name] = [differences[name], verdict]
                self._played_file.write_text(json.dumps(known, indent=1))
        if player.returncode != 0:
            raise StepFailed("the player of worlds failed", log=self._log, advice="do the worlds hold as the code is?")

    # What was found

    def _tell(self, changes: dict[str, list[Change]], verdicts: dict[str, str], played: dict[str, str]) -> None:
        total: Counter[str] = Counter()
        for module, chosen in sorted(changes.items()):
            counts = Counter(_judge(change, verdicts, played) for change in chosen)
            total += counts
            for change in chosen:
                if _judge(change, verdicts, played) == "survived":
                    self._steps.say(f"\n{change.name}\n{change.difference}")
            self._steps.say(_sum_up(module, counts))
        self._steps.say(f"{_sum_up('all', total)}; left out by rule: {_list_rules(changes)}")


def _judge(change: Change, verdicts: dict[str, str], played: dict[str, str]) -> str:
    if change.harmless:
        return "left out"
    if verdicts[change.name] in _NOTICED:
        return "unit"
    return "simulation" if played[change.name] in _NOTICED else "survived"


def _sum_up(what: str, counts: Counter[str]) -> str:
    killed = counts["unit"] + counts["simulation"]
    tried = killed + counts["survived"]
    share = f" ({100 * killed / tried:.1f} %)" if tried else ""
    return (
        f"{what}: {killed} of {tried} noticed{share}: {counts['unit']} by unit tests, {counts['simulation']} by the simulation; "
        f"{counts['survived']} survived, {counts['left out']} left out"
    )


def _list_rules(changes: dict[str, list[Change]]) -> str:
    rules = Counter(change.harmless for chosen in changes.values() for change in chosen if change.harmless)
    return ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items())) or "nothing"


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``devstack/mutate``; the exit code."""
    parser = argparse.ArgumentParser(prog="devstack/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="which changes, as compute_agent.actions*; everything without any")
    parser.add_argument("--sample", type=int, metavar="N", help="only N changes of each module, drawn at random")
    parser.add_argument("--seed", type=int, default=1, help="what they are drawn with (1)")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="directory of the copy, of the log and of the results")
    arguments = parser.parse_args(argv)
    try:
        parts = [Mutation(name, arguments.patterns, arguments.state.resolve(), Steps(), arguments.sample, arguments.seed) for name in PARTS]
        found = [part.run() for part in parts]
        return 0 if any(found) else 1
    except StepFailed as failure:
        print(f"\n{failure.explain()}", file=sys.stderr)
        return 1


def _dot(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def _copy_tree(tree: Path, part: Part) -> None:
    """The sources as they are now; what mutmut found out before stays, and is used for what did not change since."""
    tree.mkdir(parents=True, exist_ok=True)
    skipped = shutil.ignore_patterns("__pycache__", ".state", ".cache", ".venv")
    for name in ("compute_agent", "api_gateway", *_COPIED):
        if (ROOT / name).is_dir():
            shutil.rmtree(tree / name, ignore_errors=True)
            shutil.copytree(ROOT / name, tree / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, tree / name)
    tests = tree / "selected-tests"
    tests.write_text("".join(f"{path}\n" for path in part.list_tests()))
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + _write_settings(part, tests))


def _write_settings(part: Part, tests: Path) -> str:
    """:param tests: a file that names them: were they named here, one more would make mutmut forget all its verdicts"""
    settings = {
        "source_paths": ["compute_agent", "api_gateway"],
        "only_mutate": [str(path) for path in part.list_modules()],
        "also_copy": list(_COPIED),
        "do_not_mutate_patterns": list(_NOT_CHANGED),
        "pytest_add_cli_args": list(_PYTEST),
        "pytest_add_cli_args_test_selection": [f"@{tests}"],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(["", "[tool.mutmut]", *lines, "track_dependencies = false", "use_git_change_detection = false", ""])


if __name__ == "__main__":
    sys.exit(main())
