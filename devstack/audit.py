"""Are there known weaknesses in the libraries that crashcart brings with it? What an advisory database outside of this machine says.

Only libraries of the product count, all extras that it is installed with, in the versions that the tests run with; tools of the tests
are nobody's risk but the tester's. Without the database nothing is proven, and that is said.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DATABASE = "https://api.osv.dev/v1/query"
PRODUCT = "crashcart"
EXTRAS = ("libvirt", "bmc", "keystone", "postgresql", "mariadb")
_KNOWN_WEAK = {"version": "2.4.1", "package": {"name": "jinja2", "ecosystem": "PyPI"}}
"""What every such database warns of: one that does not is none."""
_ANSWER_SECONDS = 5.0


class NotAudited(Exception):
    """The libraries could not be audited; the message says why."""


class WeakLibraries(Exception):
    """Libraries with known weaknesses, or ones that the database could not be asked about; the message names them."""


def audit_libraries(database: str = DATABASE) -> None:
    """Ask for every library of the product.

    :raises WeakLibraries: at least one has a known weakness, or was not looked up while others were.
    :raises NotAudited: the database does not answer, or not as one.
    """
    _expect_database(database)
    with TemporaryDirectory() as directory:
        listed = Path(directory) / "libraries.txt"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in sorted(list_libraries().items())))
        options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--requirement", str(listed), "-s", "osv", "--osv-url", database, *options],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise NotAudited(f"pip-audit ended with {done.returncode} and said: {done.stderr.strip()[-2000:]}") from error
    if problems := list_problems(answer):
        raise WeakLibraries("\n".join(problems))


def list_problems(answer: dict[str, Any]) -> list[str]:
    """A line for each known weakness in pip-audit's JSON, and for each library that it left out: it ends with 0 for those."""
    problems = []
    for library in answer["dependencies"]:
        if "skip_reason" in library:
            problems.append(f"{library['name']}: not audited: {library['skip_reason']}")
        for weakness in library.get("vulns", ()):
            repaired = ", ".join(weakness["fix_versions"]) or "none yet"
            problems.append(f"{library['name']} {library['version']}: {weakness['id']}, repaired in: {repaired}")
    return problems


def list_libraries(product: str = PRODUCT, extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """Name -> version of everything that the product needs, directly or not, as it is installed beside this interpreter.

    What is not installed (an extra that this machine cannot have, another system's library) is left out.
    """
    libraries: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    pending = [(canonicalize_name(product), extra) for extra in ("", *extras)]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in asked:
            continue
        asked.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        libraries[name] = found.version
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    del libraries[canonicalize_name(product)]
    return libraries


def _expect_database(database: str) -> None:
    question = urllib.request.Request(database, json.dumps(_KNOWN_WEAK).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(question, timeout=_ANSWER_SECONDS) as answer:
            known = json.load(answer).get("vulns")
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        raise NotAudited(f"{database} does not answer: {error}") from error
    if not known:
        raise NotAudited(f"{database} knows of no weakness in {_KNOWN_WEAK}: it is no advisory database")
