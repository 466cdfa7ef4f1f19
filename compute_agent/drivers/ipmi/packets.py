"""IPMI 2.0 (RMCP+) sessions in packets: pyghmi reads and writes them, and does no I/O of its own.

pyghmi's session is a protocol and an event loop in one. Its loop keeps global state for every BMC of the process, blocks in the middle of a
login, and sends again, and even logs in again, what must be sent once only. So only the protocol is used: what it wants to send goes to a
function of ours, what came is handed to it, and every timer is ours. No socket, no thread and no entry in a table of pyghmi's comes of it.
"""

import logging
import os
import struct
from collections.abc import Callable
from typing import Any

from pyghmi.ipmi.private import constants
from pyghmi.ipmi.private.session import Session

from compute_agent.drivers.ipmi.exchange import Request, Response
from compute_agent.drivers.ipmi.target import Access

LOG = logging.getLogger(__name__)

_APPLICATION, _CLOSE_SESSION = 0x06, 0x3C
_RMCP_PLUS = 6
_SHORTEST_PACKET = 14
_SHA1 = 1
_SHA1_SUITE, _SHA256_SUITE = 3, 17
_NOT_PAIRED = (None, None, None)
"""Where a packet came from, for pyghmi's tables of sockets and addresses, which stay empty here."""


class PacketSession(Session):  # type: ignore[misc]  # pyghmi has no type hints
    """One session with one BMC; used by one thread at a time. ``transmit`` takes each packet to send.

    ``refusal``: the BMC's answer to the login was no, in pyghmi's words. ``established``: logged in. ``has_advanced``: the last packet that
    came led to something; it was not of another session, a second copy, damaged, or nonsense.
    """

    def __new__(cls, *_: object, **__: object) -> "PacketSession":
        """A new session each time: pyghmi would hand out one that it found in its tables."""
        return object.__new__(cls)

    def __init__(self, access: Access, transmit: Callable[[bytes], None]) -> None:
        # All that pyghmi's own constructor sets and the methods read that are used here; it would open a socket, too.
        self.servermode = False
        self.userid = access.username
        self.password = self.kg = access.password.reveal()
        self.privlevel, self.autopriv = access.level, access.may_degrade
        self.nameonly = 16
        self.seqlun = 0
        self.lastpayload = None
        self.last_payload_type = None
        self.pendingpayloads: Any = []
        self.request_entry: list[tuple[int, int, int]] = []
        self.maxtimeout = 2
        self._transmit = transmit
        self._cipher = access.cipher
        self._request: bytearray | None = None
        self._request_key = (0, 0, 0)
        self._response: Response | None = None
        self.refusal: str | None = None
        self.established = False
        self.has_advanced = False

    def receive(self, packet: bytes) -> Response | None:
        """Take a packet that came; the response, if it is the answer to the last request.

        Whatever is in it: what cannot be believed or understood is no answer, and ends nothing.
        """
        before = self._progress()
        try:
            self._read(bytearray(packet))
        except Exception as error:  # noqa: BLE001 - pyghmi raises just about anything when it is given nonsense
            LOG.debug("A packet that cannot be read came from a BMC: %r", error)
        response, self._response = self._response, None
        self.has_advanced = response is not None or self._progress() != before
        return response

    def repeat_login(self) -> bool:
        """Send the last step of the login again; False: this step cannot be, and a new session must be begun."""
        if self.sessioncontext is None and self.lastpayload:
            self.send_payload()
        elif self.sessioncontext == "OPENSESSION":
            self._open_rmcpplus_request()
        else:
            return False
        return True

    def send_request(self, request: Request) -> None:
        """Put a request on the wire, once. An answer to any earlier one is none from here on."""
        self.seqlun = (self.seqlun + 1) & 0x3F
        self.request_entry.clear()
        self.ipmicallback = self._keep_response
        self._request = self._make_ipmi_payload(request.netfn, request.command, data=bytearray(request.data))
        (self._request_key,) = self.request_entry
        self.send_payload(self._request, constants.payload_types["ipmi"], retry=False)

    def repeat_request(self) -> None:
        """Put the last request on the wire again, as the same one: whichever answer comes first counts, and no other."""
        self.request_entry[:] = [self._request_key]
        self.send_payload(self._request, constants.payload_types["ipmi"], retry=False)

    def send_logout(self) -> None:
        """Tell the BMC that the session is over; what it answers is not waited for."""
        self.send_request(Request(_APPLICATION, _CLOSE_SESSION, struct.pack("<I", self.sessionid)))

    def onlogon(self, parameter: dict[str, str]) -> None:
        """pyghmi's: the login is over; success is told in another way."""
        self.refusal = parameter["error"]

    def _read(self, packet: bytearray) -> None:
        is_rmcp = len(packet) >= _SHORTEST_PACKET and packet[0] == 6 and packet[2:4] == b"\xff\x07"
        # Once the session is being opened, what comes outside of it is nobody's answer: pyghmi would let it spoil its sequence numbers.
        if is_rmcp and (packet[4] == _RMCP_PLUS or self.sessioncontext is None):
            self._handle_ipmi_packet(packet, qent=_NOT_PAIRED)

    def _progress(self) -> tuple[object, ...]:
        return self.sessioncontext, self.rmcptag, self.privlevel, self.refusal, self.established

    def _keep_response(self, response: dict[str, Any]) -> None:
        self._response = Response(response["code"], bytes(response["data"]))

    def _initsession(self) -> None:
        """pyghmi's: begin from nothing. The session's number differs each time: pyghmi's own is the same for every session."""
        super()._initsession()
        (self.localsid,) = struct.unpack("<I", os.urandom(4))
        self.localsid &= 0x7FFFFFFF  # counted up with each attempt
        self.logontries = 0
        if self._cipher == _SHA1_SUITE:
            self.attemptedhash = _SHA1

    def _got_channel_auth_cap(self, response: dict[str, Any]) -> None:
        """pyghmi's: would ask again as IPMI 1.5 has it, without end, where the BMC refuses to say how to log in to a session of 2.0."""
        if response["code"]:
            self.onlogon({"error": f"it does not say how to log in with IPMI 2.0 (completion code {response['code']:#04x})"})
        else:
            super()._got_channel_auth_cap(response)

    def _open_rmcpplus_request(self) -> None:
        if self.attemptedhash == _SHA1 and self._cipher == _SHA256_SUITE:
            self.onlogon({"error": constants.rmcp_codes[0x11]})
            return
        self.rmcptag &= 0x7F  # a byte, counted up with each attempt
        super()._open_rmcpplus_request()

    def _get_session_challenge(self) -> None:
        """pyghmi's: a session of IPMI 1.5, whose messages nothing protects (and which fails with credentials in bytes)."""
        self.onlogon({"error": "it offers no IPMI 2.0 session"})

    def _relog(self) -> None:
        """pyghmi's: the BMC does not know the session that it has just opened."""
        self.onlogon({"error": constants.rmcp_codes[2]})

    def _req_priv_level(self) -> None:
        """pyghmi's: logged in; it would ask for the privilege level here and block for the answer."""
        self.established = True

    def _xmit_packet(self, retry: bool = True, delay_xmit: float | None = None, timeout: float | None = None) -> None:
        if self.sequencenumber:  # 0 stays: it is that of every packet before the session
            self.sequencenumber += 1
        self._transmit(bytes(self.netpacket))
