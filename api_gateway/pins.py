"""``[upgrade_levels] compute_agent``: how much of the RPC contract agents are told while some of them run another release."""

import re
from dataclasses import dataclass

from oslo_config import cfg

from compute_agent.contract import versions

AUTO = "auto"
RPC_PREFIX = "rpc-"
_RELEASE_NUMBER = re.compile(r"([0-9]+\.[0-9]+)(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Pin:
    """What was configured, as it was written, and what it names.

    ``cap``: the highest RPC version to use; None where nothing is named: this release's own, or, if ``is_automatic``, the lowest that any
    host's agent speaks. ``is_bare``: a number was taken for an RPC version only because no release of that name is known yet.
    """

    configured: str = ""
    cap: str | None = None
    is_automatic: bool = False
    is_bare: bool = False


UNPINNED = Pin()


def parse_pin(level: str) -> Pin:
    """``auto``, a release (1.0, or any 1.0.N), an RPC version (rpc-1.3, or the bare number while no release is named so), or nothing.

    :raises ValueError: it is none of these; the text says which there are.
    """
    level = level.strip()
    if not level:
        return UNPINNED
    if level == AUTO:
        return Pin(level, is_automatic=True)
    release = _RELEASE_NUMBER.fullmatch(level)
    if release is not None and release[1] in versions.RELEASES:
        return Pin(level, versions.RELEASES[release[1]].rpc)
    number = level.removeprefix(RPC_PREFIX)
    known = [version.number for version in versions.RPC_HISTORY]
    if number in known:
        return Pin(level, number, is_bare=number == level)
    raise ValueError(
        f"[upgrade_levels] compute_agent = {level}: neither {AUTO}, nor a release ({', '.join(versions.RELEASES)}), nor an RPC version "
        f"({', '.join(RPC_PREFIX + number for number in known)})"
    )


def read_pin(conf: cfg.ConfigOpts) -> Pin:
    """:raises ValueError: see :func:`parse_pin`."""
    return parse_pin(conf.upgrade_levels.compute_agent)
