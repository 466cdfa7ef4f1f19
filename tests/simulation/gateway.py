"""The gateway: its engines, and the accepting half of the API, over one store that outlives their processes."""

import functools
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from oslo_config import cfg
from sqlalchemy import Connection

from compute_agent.contract.rpcapi import ComputeAgentAPI
from compute_agent.contract.signing import CastSigner
from compute_agent.contract.transport import oslo_messaging, register_messaging_options
from tests.simulation.broker import Broker
from tests.simulation.engine import HOST_DUMP_BOUND, Engine
from tests.simulation.kernel import START, HostClock, Kernel, Process
from tests.simulation.links import RpcDriver
from tests.simulation.outages import Database
from tests.simulation.quick_store import QuickStore

CommitWatch = Callable[[Process, str, str], None]
"""(process, label, "before" | "after"): called around each commit; may kill the process."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WatchedStore(QuickStore):
    """The production store; each commit is told to whoever plans crashes."""

    def __init__(self, url: str, process: Process, watch: CommitWatch, database: Database) -> None:
        super().__init__(url)
        self.process = process
        self._watch = watch
        self._database = database

    @contextmanager
    def write(self, *, begins_later: bool = False) -> Iterator[Connection]:
        label, process = "store." + sys._getframe(2).f_code.co_name.strip("_"), self.process
        process.check()
        self._database.enter(process)
        with super().write() as c:
            yield c
            process.check()
            self._watch(process, label, "before")
            self._database.check_room()
        self._watch(process, label, "after")
        self._database.answer()


@functools.cache
def _get_messaging_options() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    register_messaging_options(conf)
    return conf


def create_rpc_client(broker: Broker, process: Process, signer: CastSigner | None = None) -> ComputeAgentAPI:
    """The production client; only the driver below oslo.messaging is simulated."""
    transport = oslo_messaging.transport.RPCTransport(RpcDriver(_get_messaging_options(), broker, process))
    return ComputeAgentAPI(transport, signer=signer)


class Gateway:
    """Processes come and go over one database file."""

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        template: Path,
        folder: Path,
        watch: CommitWatch,
        chance: random.Random,
        *,
        engines: tuple[str, ...] = ("engine",),
        gathering: float = 0.0,
    ) -> None:
        """
        :param engines: their names
        :param gathering: seconds at most for which a recorder lets events gather
        """
        self.kernel = kernel
        self.broker = broker
        self.clock = HostClock(kernel)
        self.path = folder / "gateway.sqlite"
        shutil.copyfile(template, self.path)
        self.url = f"sqlite:///{self.path}"
        self.database = Database(kernel)
        self._chance = chance
        self.signer: CastSigner | None = None
        self.reader = QuickStore(self.url)
        self._watcher = sqlite3.connect(self.path)
        # One each for all lives of a process: what is lost with a life are its transactions, and those are rolled back.
        self._stores = {name: WatchedStore(self.url, Process(name), watch, self.database) for name in ("api", *engines)}
        self.api_store = self._stores["api"]
        self.engines = [Engine(self, name, self._stores[name], chance, gathering) for name in engines]

    def count_engines(self) -> int:
        return len(self.engines)

    def create_caster(self, process: Process) -> ComputeAgentAPI:
        return create_rpc_client(self.broker, process, self.signer)

    def wake_dispatcher(self) -> None:
        """The API's datagram, which may be lost; each engine has a socket of its own, and the API knows one."""
        engine = self.engines[0]
        if engine.process.alive and self._chance.random() < 0.9:
            engine.wake_dispatcher()

    def list_open_past(self, time: float, grace: float) -> list[str]:
        """Actions that have not ended and whose deadline and grace lie before that virtual second; of a watchdog's change that was begun
        the grace counts twice, for the former device to be put back, and a memory dump has its own bound."""
        graces = (grace, 2 * grace, max(grace, grace + HOST_DUMP_BOUND))
        once, twice, dump = (int((START - _EPOCH + timedelta(seconds=time - each)) / timedelta(microseconds=1)) for each in graces)
        query = (
            "SELECT id FROM actions WHERE state IN ('accepted', 'received', 'started') AND deadline < CASE"
            " WHEN state = 'started' AND kind LIKE '%_watchdog' THEN ?"
            " WHEN state = 'started' AND kind = 'take_host_dump' THEN ? ELSE ? END"
        )
        return [row[0] for row in self._watcher.execute(query, (twice, dump, once))]

    def find_first_waiting(self, server: str) -> str | None:
        """The action of a server that was asked for first of those that have not begun as far as the store knows."""
        query = "SELECT id FROM actions WHERE server = ? AND state IN ('accepted', 'received') ORDER BY accepted_at LIMIT 1"
        row = self._watcher.execute(query, (server,)).fetchone()
        return None if row is None else str(row[0])

    def dispose(self) -> None:
        self.reader.dispose()
        self._watcher.close()
        for store in self._stores.values():
            store.dispose()
