"""What is recorded of the release before is what that release itself says."""

import json
import subprocess
from pathlib import Path

from compute_agent.contract import versions
from devstack.releases import BEFORE

_HERE = Path(__file__).parent


def test_the_record_of_its_tables_is_true() -> None:
    argv = [str(BEFORE.python), str(_HERE / "describe_tables.py")]
    done = subprocess.run(argv, env=dict(BEFORE.installation.environment), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((_HERE / f"tables-{BEFORE.name}.json").read_text())


def test_it_is_the_release_before_this_one() -> None:
    """A new release moves ``devstack.releases`` on, and the record with it."""
    assert list(versions.RELEASES)[-2:] == [BEFORE.name, versions.RELEASE]
