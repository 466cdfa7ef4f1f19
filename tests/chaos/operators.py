"""Faults that people make: what they destroy, restore, start twice, or put where it does not belong."""

import errno
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import make_url

from compute_agent.contract.notifications import HEARTBEAT_QUEUE, RECORDER_QUEUES
from compute_agent.contract.transport import RPC_TOPIC
from devstack.services import Service, wait_until
from devstack.small_disk import SmallDisk
from tests.chaos.collecting import DELETED, digest
from tests.chaos.faults import Fault, Scene
from tests.chaos.history import What
from tests.chaos.poison import list_poisons
from tests.chaos.system import SECOND, ChaosSystem
from tests.chaos.watching import SECOND_QUEUE
from tests.stack.broker_events import open_quiet_link

_STOP_GRACE = 10.0
_LAST_BYTES = 1 << 20


class Poison(Fault):
    """Messages that nobody can read, or that lie, in every queue there is but the second consumer's."""

    name = "poison in every queue"
    duration = (0.5, 1.0)

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return ["queues"]

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset(name for name in system.parts if name.startswith("broker"))

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset()

    def begin(self, scene: Scene, target: str) -> None:
        link = open_quiet_link(scene.system.stack.broker, "poisoner")
        chance = random.Random(f"{scene.seed}/poison")
        try:
            channel = link.channel()
            for queue in _list_read_queues(scene):
                for poison in list_poisons(chance, sorted(scene.system.hosts)):
                    # Before it is there: whoever shelves it is to be found innocent.
                    fields: dict[str, Any] = {"digest": digest(poison.body), "message_id": poison.message_id, "says": poison.says}
                    scene.history.write(What.POISON, queue=queue, **fields)
                    message = channel.prepare_message(
                        poison.body,
                        content_type=poison.content_type,
                        content_encoding=poison.content_encoding,
                        headers=poison.headers,
                        properties={"delivery_mode": 2},
                    )
                    channel.basic_publish(message, exchange="", routing_key=queue)
        finally:
            link.close()

    def end(self, scene: Scene, target: str) -> None:
        """It is theirs now."""


def _list_read_queues(scene: Scene) -> list[str]:
    """All but the second consumer's, and those that a killed process left behind: one that was being deleted when the broker was killed may
    never have a leader again, and whoever writes to it hangs (RabbitMQ 3.10)."""
    listed = (line.split("\t") for line in scene.system.stack.broker.ctl("list_queues", "name", "consumers").splitlines())
    read = {columns[0] for columns in listed if "_fanout_" not in columns[0] or columns[1:] not in (["0"], [""], [])}
    return sorted(read - {"name", SECOND_QUEUE})


class SecondAgent(Fault):
    """Somebody starts an agent under the name of one that runs, with a journal of its own."""

    name = "second agent of the same name"
    duration = (4.0, 12.0)

    def __init__(self) -> None:
        self._seconds: dict[str, Service] = {}

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return list(system.hosts)

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({f"agent:{target}"})

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset({f"agent:{target}"})

    def begin(self, scene: Scene, target: str) -> None:
        host = scene.get_host(target)
        number = len(list(scene.system.directory.glob(f"{SECOND}*-{target}.conf"))) + 1
        service = scene.system.make_second_agent(host, number)
        self._seconds[target] = service
        service.start()

    def end(self, scene: Scene, target: str) -> None:
        self._seconds.pop(target).stop(_STOP_GRACE)


class Purge(Fault):
    """An operator purges a queue in which something lies, because whoever reads it stands still."""

    name = "queue purged"
    duration = (2.0, 5.0)
    _RECORDER: ClassVar[str] = RECORDER_QUEUES[0].name

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return [self._RECORDER, HEARTBEAT_QUEUE.name, *(f"{RPC_TOPIC}.{host}" for host in system.hosts)]

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset(name for name in system.parts if name.startswith("broker")) | self.list_parts(target)

    def list_parts(self, target: str) -> frozenset[str]:
        host = target.removeprefix(f"{RPC_TOPIC}.")
        return frozenset({"engine"}) if host == target else frozenset({f"agent:{host}"})

    def begin(self, scene: Scene, target: str) -> None:
        for part in self.list_parts(target):
            scene.system.parts[part].freeze()

    def end(self, scene: Scene, target: str) -> None:
        try:
            scene.history.write(What.PURGED, queue=target)
            scene.system.stack.broker.ctl("purge_queue", target)
            scene.history.write(What.PURGED, queue=target)
        finally:
            for part in self.list_parts(target):
                scene.system.parts[part].thaw()


class Restore(Fault):
    """The store is backed up while it is in use, and some time later restored as the handbook says."""

    name = "store restored from a backup"
    duration = (5.0, 15.0)

    def __init__(self) -> None:
        self._taken_at = 0.0

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return ["store"]

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        links = {name for name in system.links if name.endswith("–database")}
        return self.list_parts(target) | {"database"} | links | {part for part in system.parts if part.startswith(("api", "engine"))}

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset({"store", "engine", "api"})

    def begin(self, scene: Scene, target: str) -> None:
        self._taken_at = time.time()
        database = scene.system.stack.database
        if database is not None:
            database.back_up_database(_get_database_name(scene))
        else:
            copy = _get_copy(scene)
            copy.unlink(missing_ok=True)
            with closing(sqlite3.connect(_get_store(scene))) as store, closing(sqlite3.connect(copy)) as backup:
                store.backup(backup)
        scene.history.write(What.BACKUP)

    def end(self, scene: Scene, target: str) -> None:
        stack = scene.system.stack
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: service.stop(_STOP_GRACE), [*stack.apis, *stack.engines]))
        if stack.database is not None:
            stack.database.restore_database(_get_database_name(scene))
        else:
            store = _get_store(scene)
            for path in store.parent.glob(f"{store.name}*"):
                path.unlink()
            shutil.copyfile(_get_copy(scene), store)
        command = [str(Path(sys.executable).parent / "crashcart-manage"), "--config-file", str(stack.state_dir / "crashcart-engine.conf")]
        subprocess.run([*command, "db", "restored"], check=True, capture_output=True, timeout=60)
        scene.history.write(What.RESTORED, taken_at=self._taken_at)
        for service in (*stack.engines, *stack.apis):
            service.start()


class LostJournal(Fault):
    """An operator deletes an agent's journal while the agent is stopped."""

    name = "journal deleted"
    duration = (0.5, 2.0)
    weight = 0.5

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return list(system.hosts)

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset({f"agent:{target}"})

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({f"agent:{target}"})

    def begin(self, scene: Scene, target: str) -> None:
        scene.get_host(target).agent.kill()
        kept = scene.system.directory / f"{DELETED}{uuid.uuid4().hex[:8]}-{target}"
        kept.mkdir()
        for path in scene.system.get_journal_directory(target).glob("journal.sqlite*"):
            shutil.move(path, kept / path.name)

    def end(self, scene: Scene, target: str) -> None:
        scene.get_host(target).agent.start()


def _get_copy(scene: Scene) -> Path:
    return scene.system.directory / "backup.sqlite"


def _get_store(scene: Scene) -> Path:
    return Path(_get_database_name(scene))


def _get_database_name(scene: Scene) -> str:
    return str(make_url(scene.system.stack.database_url).database)


class FullDisk(Fault):
    """No room is left under a journal, or under SQLite's file."""

    name = "disk full"
    duration = (2.0, 8.0)

    def list_targets(self, system: ChaosSystem) -> Sequence[str]:
        return list(system.disks)

    def list_needed(self, system: ChaosSystem, target: str) -> frozenset[str]:
        return frozenset({target})

    def list_parts(self, target: str) -> frozenset[str]:
        return frozenset({target})

    def begin(self, scene: Scene, target: str) -> None:
        disk = scene.system.disks[target]
        wait_until(lambda: _fill(disk), 5.0, f"no room under {target}")

    def end(self, scene: Scene, target: str) -> None:
        scene.system.disks[target].free()


def _fill(disk: SmallDisk) -> bool:
    """False when somebody was quicker, and took of what was there."""
    try:
        disk.fill(leave=_LAST_BYTES)  # takes its time, in which the disk's owner goes on writing
        disk.fill()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True
