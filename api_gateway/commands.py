"""The gateway's services as commands; each does what ``main`` of its own module says. (``crashcart-manage`` is quick by itself.)"""

from api_gateway.config import load_config
from api_gateway.engine_options import COMMAND_LINE_OPTIONS
from compute_agent.contract.commands import run_command


def run_api() -> int:
    """``crashcart-api``."""
    return run_command(lambda: load_config(prog="crashcart-api"), "api_gateway.wsgi")


def run_engine() -> int:
    """``crashcart-engine``."""
    return run_command(lambda: load_config(prog="crashcart-engine", cli_opts=COMMAND_LINE_OPTIONS), "api_gateway.engine")
