"""The commands as their entry points name them."""

import subprocess
import sys
from pathlib import Path

_ASK = """
import sys
from api_gateway import commands, manage
from compute_agent import command
from compute_agent.tail import command as notifications

for main in (command.main, commands.run_api, commands.run_engine, manage.main, notifications.main):
    sys.argv = ["crashcart", "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end
    else:
        raise AssertionError(f"{main} goes on after its --help")
loaded = {"amqp", "falcon", "granian", "kombu", "oslo_messaging", "pydantic", "sqlalchemy"} & sys.modules.keys()
assert not loaded, loaded
"""


def test_help_is_told_without_loading_what_a_service_runs_on() -> None:
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    for said in ("--config-file", "--only", "broker-definitions", "tail"):
        assert said in asked.stdout


def test_a_configuration_that_cannot_be_read_is_told_in_a_line_whatever_is_asked(tmp_path: Path) -> None:
    (damaged := tmp_path / "damaged.conf").write_text("no section, no value\n")
    run = "import sys; from compute_agent.tail.command import main; sys.exit(main())"
    asked = subprocess.run(
        [sys.executable, "-c", run, "--config-file", str(damaged), "--help"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 1
    assert asked.stderr.startswith("crashcart-notifications: ")
    assert "Traceback" not in asked.stderr


_PROGRAM = """
try:
    import colorsys
except ImportError:
    colorsys = None

def main():
    import colorsys as found_later
    return 0 if colorsys is None and found_later is not None else 1
"""


def test_what_is_not_used_is_not_loaded_with_the_program_and_is_there_for_who_asks_for_it_later(tmp_path: Path) -> None:
    """A driver may need what nothing else in its agent does."""
    (tmp_path / "program.py").write_text(_PROGRAM)
    run = "import sys; from compute_agent.contract.commands import run_command; "
    run += "sys.path.insert(0, sys.argv.pop()); sys.exit(run_command(lambda: None, 'program', unused=['colorsys']))"
    subprocess.run([sys.executable, "-c", run, str(tmp_path)], check=True)
