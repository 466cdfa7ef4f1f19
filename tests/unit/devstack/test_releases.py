"""A release of the past runs its own code beside the tree that is being worked on, or it is said what keeps it from being built."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from devstack import releases
from devstack.releases import BEFORE, Release
from devstack.steps import StepFailed, Steps


def write_package(directory: Path, whose: str) -> Path:
    package = directory / "compute_agent"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"WHOSE = {whose!r}\n")
    return directory


def run_in(environment: Path, code: str) -> "subprocess.CompletedProcess[str]":
    argv = [str(environment / "bin/python"), "-c", code]
    return subprocess.run(argv, env={"PYTHONPATH": ""}, cwd=environment, capture_output=True, text=True)


def make_environment(directory: Path, shared: Path) -> Path:
    venv.create(directory, with_pip=False)
    releases.share_libraries(directory, [shared])
    return directory


def test_an_environment_has_the_libraries_of_another_one_and_nothing_that_is_installed_there_by_reference(tmp_path: Path) -> None:
    """Neither by a path to the tree, nor by code that finds it: both ways of an editable installation."""
    tree = write_package(tmp_path / "tree", "the tree")
    shared = tmp_path / "running" / "site-packages"
    shared.mkdir(parents=True)
    (shared / "library.py").write_text("")
    (shared / "by-path.pth").write_text(f"{tree}\n")
    (shared / "by-finder.pth").write_text(f"import sys; sys.path.insert(0, {str(tree)!r})\n")
    done = run_in(make_environment(tmp_path / "environment", shared), "import library, compute_agent")
    assert "No module named 'compute_agent'" in done.stderr


def test_what_an_environment_has_itself_comes_before_what_the_other_one_has(tmp_path: Path) -> None:
    shared = write_package(tmp_path / "running" / "site-packages", "the running environment's")
    environment = make_environment(tmp_path / "environment", shared)
    write_package(next(environment.glob("lib/python*/site-packages")), "the release's")
    assert run_in(environment, "import compute_agent; print(compute_agent.WHOSE)").stdout == "the release's\n"


def test_the_running_libraries_are_found() -> None:
    assert Path(pytest.__file__).parents[1] in releases.list_site_packages()
    assert all(Path(path).is_dir() for path in releases.list_site_packages())


@pytest.mark.parametrize("is_clone", [True, False])
def test_without_its_commit_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_clone: bool) -> None:
    """As in a shallow clone, and in an unpacked archive."""
    tree = tmp_path / "clone"
    tree.mkdir()
    if is_clone:
        subprocess.run(["git", "init", "--quiet", str(tree)], check=True)
    monkeypatch.setattr(releases, "ROOT", tree)
    monkeypatch.setenv("CRASHCART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(StepFailed) as failure:
        BEFORE.ensure(Steps())
    assert ("git fetch --unshallow" if is_clone else "in a clone") in failure.value.explain()
    assert not list((tmp_path / "cache").glob("*/.complete"))


def test_another_commit_and_other_libraries_are_other_installations(monkeypatch: pytest.MonkeyPatch) -> None:
    directories = {BEFORE.directory, Release(BEFORE.version, "0" * 40).directory}
    monkeypatch.setattr(sys, "path", [*sys.path, "/elsewhere/site-packages"])
    assert len({*directories, BEFORE.directory}) == 3
