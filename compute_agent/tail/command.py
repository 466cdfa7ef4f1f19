"""``crashcart-notifications``, the command."""

from compute_agent.contract.commands import run_command
from compute_agent.tail.command_line import load_config


def main() -> int:
    """Follow; the exit code is :func:`compute_agent.tail.following.main`'s."""
    return run_command(load_config, "compute_agent.tail.following")
