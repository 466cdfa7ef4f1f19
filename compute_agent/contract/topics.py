"""Names of what RPC uses at the broker, for those who need the names alone: oslo.messaging takes half a second to import."""

RPC_EXCHANGE = "crashcart"
RPC_TOPIC = "compute_agent"
"""Casts: what agents are to do."""
CALL_TOPIC = "compute_agent_calls"
"""Calls: what agents are asked. A topic of their own, so that a reply which hangs holds up no cast."""


def build_lock_name(host: str) -> str:
    """The exclusive queue that only one agent of a host can have."""
    return f"compute_agent_lock.{host}"
