"""Opening one connection to libvirt, and how it may be shown."""

import logging
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import libvirt

LOG = logging.getLogger(__name__)

_SECRET_WORDS = ("pass", "secret", "token")


@dataclass(frozen=True)
class KeepAlive:
    """Ask after ``interval`` seconds of silence; give up after ``count`` questions without an answer."""

    interval: int
    count: int

    @property
    def bound(self) -> float:
        """Seconds after which a frozen libvirtd is noticed, and a call that waits for it ends."""
        return float(self.interval * (self.count + 1))


@dataclass(frozen=True)
class Address:
    """Where libvirt is and how it is kept alive."""

    uri: str
    keepalive: KeepAlive

    @property
    def shown(self) -> str:
        """The URI without its password and without the values of query arguments that look like secrets."""
        parts = urlsplit(self.uri)
        user, at, place = parts.netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}{at}{place}"
        query = [(key, "***" if any(word in key.lower() for word in _SECRET_WORDS) else value) for key, value in parse_qsl(parts.query)]
        shown = f"{parts.scheme}://{netloc}{parts.path}"
        return f"{shown}?{urlencode(query, safe='/*')}" if query else shown

    def open(self) -> libvirt.virConnect:
        """A new connection with its keepalive. Has no bound of its own: never call it where somebody waits.

        :raises libvirt.libvirtError: there is none to be had now.
        """
        connection = libvirt.open(self.uri)
        try:
            connection.setKeepAlive(self.keepalive.interval, self.keepalive.count)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                close_quietly(connection)
                raise
            # A hypervisor inside this process (test:///default): nothing is between it and us that could freeze.
        return connection

    def describe(self, error: libvirt.libvirtError) -> str:
        """Why opening failed. libvirt repeats the URI in some messages, with everything in it."""
        return f"cannot connect to libvirt at {self.shown}: {str(error).replace(self.uri, self.shown)}"


def close_quietly(connection: libvirt.virConnect) -> None:
    """Let go of a connection, also of a broken one."""
    try:
        connection.close()
    except libvirt.libvirtError as error:
        LOG.debug("Closing a connection to libvirt: %s", error)
