"""What agent and gateway say to each other: the only part of the agent that the gateway may import.

Versions, models, codes, the RPC client, notification types and the confirmed publisher. Nothing in here knows a
hypervisor, an HTTP status or a table.
"""
