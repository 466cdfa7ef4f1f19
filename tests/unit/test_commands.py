"""The commands as their entry points name them."""

import subprocess
import sys

_ASK = """
import sys
from api_gateway import commands, manage
from compute_agent import command

for main in (command.main, commands.run_api, commands.run_engine, manage.main):
    sys.argv = ["crashcart", "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end
    else:
        raise AssertionError(f"{main} goes on after its --help")
loaded = {"falcon", "granian", "oslo_messaging", "pydantic", "sqlalchemy"} & sys.modules.keys()
assert not loaded, loaded
"""


def test_help_is_told_without_loading_what_a_service_runs_on() -> None:
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    for said in ("--config-file", "--only", "broker-definitions"):
        assert said in asked.stdout
