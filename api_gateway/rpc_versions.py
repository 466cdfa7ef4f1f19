"""Which verbs an agent can be told: what its release speaks, and what an operator pinned the gateway to."""

from compute_agent.contract import versions


class Speech:
    """What this gateway may say to agents.

    :param pin: the highest RPC version to use (``[upgrade_levels] compute_agent``); None for this release's own
    """

    def __init__(self, pin: str | None = None) -> None:
        self._cap = pin or versions.RPC_API_VERSION

    def find_obstacle(self, method: str, *, host: str, release: str, rpc_version: str) -> str | None:
        """Why the agent of ``host`` cannot be told ``method``, as a sentence with advice; None: it can."""
        needed = versions.get_version_of_method(method)
        if not understands(self._cap, needed):
            return f"This gateway is pinned to RPC version {self._cap}; {method} needs {needed}. Change [upgrade_levels] compute_agent."
        if not understands(rpc_version, needed):
            return (
                f"The agent of host {host} (release {release}) speaks RPC version {rpc_version}; "
                f"{method} needs {needed}. Upgrade that agent."
            )
        return None


def understands(spoken: str, needed: str) -> bool:
    """The same major number and at least the same minor one."""
    (spoken_major, spoken_minor), (needed_major, needed_minor) = (_split(version) for version in (spoken, needed))
    return spoken_major == needed_major and spoken_minor >= needed_minor


def _split(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
