"""Who may ask at all: one file per ``[api] auth_strategy``, and the guards that some of them need.

A strategy turns a request into a :class:`~api_gateway.identity.Caller` or refuses it; whether that caller may do what it asks for
is decided in ``api_gateway.policy``.
"""
