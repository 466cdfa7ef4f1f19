"""Logging in at a BMC: its last step, and what the no's of the others mean to whoever has to put it right."""

from pyghmi.ipmi.private.constants import rmcp_codes

from compute_agent.contract.errors import Code
from compute_agent.drivers.bmc.protocol import Target
from compute_agent.drivers.errors import BackendUnavailable
from compute_agent.drivers.ipmi.exchange import Conversation, Request
from compute_agent.drivers.ipmi.target import PRIVILEGES

_SET_PRIVILEGE = (0x06, 0x3B)
_ABOVE_THE_USERS, _ABOVE_THE_CHANNELS = 0x80, 0x81
_NO_SUCH_USER = (rmcp_codes[0x09], rmcp_codes[0x0A], rmcp_codes[0x0C], rmcp_codes[0x0D])
_WRONG_KEY = ("Incorrect password provided", "Invalid RAKP4 integrity code", rmcp_codes[0x0F])


def where(target: Target) -> str:
    """The BMC as texts name it."""
    host = f"[{target.address}]" if ":" in target.address else target.address
    return f"the BMC at {host}:{target.port}"


def name_refusal(target: Target, text: str) -> BackendUnavailable:
    """The error for a login that the BMC refused with ``text``, pyghmi's words for it. Nothing was asked of the BMC but to log in."""
    if text.startswith(_WRONG_KEY):
        return _forbidden(target, "refuses the password: check the one that the inventory names for this machine")
    if text.startswith(_NO_SUCH_USER):
        return _forbidden(
            target, "knows no such user, or does not let it log in with this privilege: check username and privilege in the inventory"
        )
    return BackendUnavailable(target.server, f"{where(target)} opens no session: {text}")


def ask_for_privilege(target: Target, level: int, may_degrade: bool) -> Conversation[None]:
    """Ask for the level that what follows needs; with ``may_degrade`` operator instead of administrator will do.

    :raises BackendUnavailable: the BMC does not grant it; code ``forbidden``.
    """
    response = yield Request(*_SET_PRIVILEGE, bytes([level]))
    if response.code in (_ABOVE_THE_USERS, _ABOVE_THE_CHANNELS) and may_degrade and level > PRIVILEGES["operator"]:
        level = PRIVILEGES["operator"]
        response = yield Request(*_SET_PRIVILEGE, bytes([level]))
    if response.code:
        name = next(name for name, number in PRIVILEGES.items() if number == level)
        raise _forbidden(
            target,
            f"does not grant this user the privilege level {name} (completion code {response.code:#04x}): raise the user's level there, or "
            "set a lower `privilege` in the inventory",
        )


def _forbidden(target: Target, what: str) -> BackendUnavailable:
    return BackendUnavailable(target.server, f"{where(target)} {what}", Code.FORBIDDEN)
