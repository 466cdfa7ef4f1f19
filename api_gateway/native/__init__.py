"""Our own API, ``/v1``: what the Compute API has no words for."""
