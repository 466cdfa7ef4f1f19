"""The BMC about itself (IPMI 2.0, section 20)."""

from compute_agent.drivers.ipmi.asking import read
from compute_agent.drivers.ipmi.exchange import Conversation, Request

_GET_DEVICE_ID = Request(0x06, 0x01)


def read_firmware(server: str) -> Conversation[dict[str, str]]:
    """Get Device ID (section 20.1): versions, of the BMC's firmware and of the IPMI that it speaks.

    :raises ServerUnsupported, BackendUnavailable: it cannot be read.
    """
    return parse_firmware((yield from read(server, _GET_DEVICE_ID, "its firmware's version", least=6)))


def parse_firmware(answer: bytes) -> dict[str, str]:
    """``answer``: six bytes at least. The minor version is in BCD, and that of IPMI has its digits the other way round."""
    return {"bmc": f"{answer[2] & 0x7F}.{answer[3]:02x}", "ipmi": f"{answer[4] & 0x0F}.{answer[4] >> 4}"}
