"""Hypothesis draws the same examples in every run: a red build must be red on the developer's machine too."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
