"""The event stream: tickets that the API gives out, and the engine's own listener, which serves whoever brings one.

No thread waits for a connection: the API authenticates, permits and sends on; the listener tells all connections what one reader reads.
"""
