"""What agents can be asked, however the questions travel, and over which way the gateway sends them.

Every question goes in the *lowest* version in which its verb has its form, signed anew where there is a signer. What the agent, or a pin,
does not take is refused before anything is sent; optional arguments that it does not know are left out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from compute_agent.contract import versions
from compute_agent.contract.diagnostics import DiagnosticsReply
from compute_agent.contract.models import BlackBoxChunk, PingReply
from compute_agent.contract.signing import CastSigner
from compute_agent.contract.topics import CALL_TOPIC


class NotDelivered(Exception):
    """Nothing was delivered; the text says why."""


class Unroutable(NotDelivered):
    """The broker returned the cast: the host has no queue."""


class VersionTooLow(NotDelivered):
    """The agent may not be told anything of that version now; nothing was sent."""


class Calls(ABC):
    """One method per verb. What else they raise is said by the way that they travel."""

    def ping(self, host: str, timeout: float) -> PingReply:
        """Who answers there. ``timeout`` in seconds.

        :raises VersionTooLow: the agent, or the pin, does not take it.
        """
        return PingReply.from_wire(self._call(host, "ping", timeout))

    def get_diagnostics(self, host: str, server: str, *, timeout: float, history: bool = False) -> DiagnosticsReply:
        """Call the agent. ``timeout`` as for :meth:`ping`.

        :raises VersionTooLow: the agent, or the pin, does not take it.
        """
        return DiagnosticsReply.from_wire(self._call(host, "get_diagnostics", timeout, server=server, history=history))

    def get_black_box(self, host: str, black_box_id: str, part: str, *, offset: int, timeout: float) -> BlackBoxChunk:
        """Call the agent for a piece of one part of a black box, from byte ``offset`` on. ``timeout`` as for :meth:`ping`.

        :raises VersionTooLow: the agent, or the pin, does not take it.
        """
        return BlackBoxChunk.from_wire(self._call(host, "get_black_box", timeout, black_box_id=black_box_id, part=part, offset=offset))

    @abstractmethod
    def _call(self, host: str, method: str, timeout: float, **arguments: Any) -> Any:
        """Send it, and return what came back within so many seconds."""


class Line(Protocol):
    """What is used of :class:`compute_agent.contract.question_line.QuestionLine`."""

    def ask(self, routing_key: str, message: Mapping[str, Any], timeout: float) -> Any: ...


class AgentQuestions(Calls):
    """Over a line of their own, on which they wait for their answers by the clock; what it raises is raised here.

    :param get_cap: the highest RPC version that the agent of a host may be told now; None: this release's own, whoever it is
    :param signer: signs everything that is sent; None: nothing is signed, and agents that trust certain keys refuse it
    """

    def __init__(self, line: Line, get_cap: Callable[[str], str] | None = None, signer: CastSigner | None = None) -> None:
        self._line = line
        self._get_cap = get_cap
        self._signer = signer

    def _call(self, host: str, method: str, timeout: float, **arguments: Any) -> Any:
        cap = versions.RPC_API_VERSION if self._get_cap is None else self._get_cap(host)
        version = versions.get_version_of_method(method)
        if not _covers(cap, version):
            raise VersionTooLow(f"host {host} may be told no more than RPC version {cap}; {method} needs {version}")
        known = {}
        for argument, value in arguments.items():
            brought = versions.get_version_of_argument(method, argument)
            if _covers(cap, brought):
                known[argument] = value
                version = brought if _covers(brought, version) else version
        signed = {} if self._signer is None else self._signer.sign(host, method, known)
        context = {f"_context_{key}": value for key, value in signed.items()}
        message = {"method": method, "args": known, "version": version, **context}
        return self._line.ask(f"{CALL_TOPIC}.{host}", message, timeout)


def _covers(cap: str, version: str) -> bool:
    """Whether who may be told no more than ``cap`` may be told ``version``."""
    (cap_major, cap_minor), (major, minor) = cap.split("."), version.split(".")
    return cap_major == major and int(cap_minor) >= int(minor)
