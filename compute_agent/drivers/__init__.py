"""Drivers: how an agent reaches its servers. Each lives in a package of its own and imports no other."""
