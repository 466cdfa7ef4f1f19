"""``crashcart-agent``, the command."""

from compute_agent.config import load_config
from compute_agent.contract.commands import run_command


def main() -> int:
    """Serve; the exit code is :func:`compute_agent.service.main`'s."""
    return run_command(load_config, "compute_agent.service", unused=["yaml", "msgpack"])  # kombu's, for messages that are not JSON
