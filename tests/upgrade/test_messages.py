"""What this release puts on the wire is read by the code of the release before: all that it tells, and all that it asks under the pin."""

import json
import os
import subprocess
from pathlib import Path

from compute_agent.contract import versions
from devstack.releases import BEFORE
from tests.contract import golden
from tests.contract.recorded_rpc import record_rpc

_SCRIPT = Path(__file__).parent / "read_messages.py"


def read_there(folder: Path) -> set[str]:
    """What the release before could read of a folder."""
    outcome = subprocess.run(
        [BEFORE.python, str(_SCRIPT), str(folder)], env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return set(json.loads(outcome.stdout.splitlines()[-1]))


def test_the_release_before_reads_what_this_one_tells_and_what_it_asks_when_pinned_to_it(tmp_path: Path) -> None:
    asked, _unsaid = record_rpc(golden.RPC_VERBS, golden.REPLIES, versions.RELEASES[BEFORE.name].rpc)
    told = {name: sample for name, sample in golden.make_samples().items() if name.startswith("events/") or name.endswith(".reply.json")}
    samples = {**told, **{f"rpc/{method}.json": sample for method, sample in asked.items()}}
    for name, sample in samples.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(golden.format_sample(sample))
    assert read_there(tmp_path) == samples.keys()


def test_the_release_before_is_the_one_that_the_samples_were_taken_of() -> None:
    folder = golden.SAMPLES / BEFORE.name
    read = {name for name in golden.read_samples(BEFORE.name) if name.startswith(("rpc/", "events/")) and name != "rpc/signature.json"}
    assert read_there(folder) == read
