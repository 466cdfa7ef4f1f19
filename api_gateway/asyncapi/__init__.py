"""Notifications in AsyncAPI 3: what is told on which routing keys, for machines."""
