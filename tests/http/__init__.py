"""HTTP cases: the whole application in this process over a real SQLite store, with a fleet in every state."""
