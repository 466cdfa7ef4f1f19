"""The errors that a driver may raise.

There are five kinds of "no" and one "perhaps". Of a "no" it is certain that **nothing was sent**; after :class:`OutcomeUnknown`
nothing is ever sent again for that action. Raise nothing else on purpose: any other exception is taken for a "perhaps".
"""

from compute_agent.contract.errors import Code


class DriverError(Exception):
    """Base of what a driver may raise; ``code`` is the stable code that the action ends with."""

    code: Code

    def __init__(self, server: str | None, reason: str) -> None:
        super().__init__(reason)
        self.server = server
        self.reason = reason


class NothingSent(DriverError):
    """Base of the five kinds of "no": certainly nothing was sent."""


class CapabilityUnsupported(NothingSent):
    """This driver or this kind of machine never can."""

    code = Code.NOT_SUPPORTED


class ServerUnsupported(NothingSent):
    """This server cannot, as it is configured now (no such device, say)."""

    code = Code.NOT_SUPPORTED


class ServerNotFound(NothingSent):
    """The host has no such server."""

    code = Code.SERVER_NOT_FOUND


class ServerNotRunning(NothingSent):
    """The server is off or has already crashed: there is nobody to take the signal."""

    code = Code.SERVER_NOT_RUNNING


class BackendUnavailable(NothingSent):
    """Hypervisor or BMC could not be reached or was busy; nothing was sent and it is safe to try again.

    The raiser may set ``code`` where another one says more: ``Code.FORBIDDEN`` when the backend refused our credentials, say.
    """

    code = Code.BACKEND_UNAVAILABLE

    def __init__(self, server: str | None, reason: str, code: Code = Code.BACKEND_UNAVAILABLE) -> None:
        super().__init__(server, reason)
        self.code = code


class OutcomeUnknown(DriverError):
    """It was sent, or perhaps sent, and no answer came. Never raised when the driver knows that nothing was sent."""

    code = Code.ANSWER_LOST


class EventNotTaken(Exception):
    """Raised to a driver by its listener: an event with a cursor found no room. Its log is to be read again from the cursor before."""

    def __init__(self, server: str | None, reason: str) -> None:
        super().__init__(f"server {server}: {reason}")
