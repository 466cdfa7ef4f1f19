"""The protocols to BMCs that are installed, loaded when the first machine needs one: nobody installs sushy for IPMI's sake."""

import logging
import threading
from collections.abc import Callable
from importlib.metadata import entry_points

from oslo_config import cfg
from stevedore import DriverManager
from stevedore.exception import MultipleMatches, NoMatches

from compute_agent.contract.clock import Clock
from compute_agent.drivers.bmc.protocol import Protocol

LOG = logging.getLogger(__name__)

NAMESPACE = "crashcart.bmc_protocols"


class ProtocolNotLoaded(Exception):
    """A protocol cannot be used; the text says why and what to do."""


class Protocols:
    """Each is made once, at its first use. Used by one thread at a time to get them, by any to list them.

    :param create: makes one by its name; None: by its entry point
    """

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock, create: Callable[[str], Protocol] | None = None) -> None:
        self._conf = conf
        self._clock = clock
        self._create = create or self._load
        self._lock = threading.Lock()
        self._made: dict[str, Protocol] = {}

    def get(self, name: str) -> Protocol:
        """:raises ProtocolNotLoaded: there is none of that name, its library is missing, or it refuses its options."""
        with self._lock:
            protocol = self._made.get(name)
        if protocol is None:
            protocol = self._create(name)
            with self._lock:
                self._made[name] = protocol
        return protocol

    def list_made(self) -> list[Protocol]:
        """Those in use, in the order of their names."""
        with self._lock:
            return [self._made[name] for name in sorted(self._made)]

    def close(self) -> None:
        for protocol in self.list_made():
            protocol.close()

    def _load(self, name: str) -> Protocol:
        installed = sorted(entry_points(group=NAMESPACE).names)
        if name not in installed:
            raise ProtocolNotLoaded(f"there is no such protocol; installed: {', '.join(installed)}")
        try:
            create: Callable[[cfg.ConfigOpts, Clock], Protocol] = DriverManager(NAMESPACE, name).driver
        except NoMatches as error:
            raise ProtocolNotLoaded(f"the protocol {name} cannot be loaded: {error}") from error
        except MultipleMatches as error:
            raise ProtocolNotLoaded(f"more than one installed package brings the protocol {name}") from error
        except ImportError as error:
            raise ProtocolNotLoaded(f"its library cannot be imported ({error}): pip install 'crashcart[bmc]'") from error
        try:
            protocol = create(self._conf, self._clock)
        except (ValueError, cfg.Error) as error:
            raise ProtocolNotLoaded(f"it refuses its options: {error}") from error
        LOG.info("BMCs that speak %s: the protocol is loaded", name)
        return protocol
