"""The inventory of an agent with the driver for bare metal, and the files of the passwords that it names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class InventoryEntry:
    """One machine and how its BMC is reached. ``options`` are further fields of the entry, as ``ca_file``, ``system`` or ``cipher``."""

    uuid: str
    name: str
    driver: str
    address: str
    port: int
    username: str
    password: str = field(repr=False)
    project: str
    user: str
    options: Mapping[str, object] = field(default_factory=dict)


def write_inventory(path: Path, entries: Iterable[InventoryEntry]) -> None:
    """Write the inventory, and beside it a directory with a file for each password, that only the owner may read."""
    secrets = path.with_suffix(".secrets")
    secrets.mkdir(exist_ok=True, mode=0o700)
    machines = []
    for entry in entries:
        _write_private(secrets / entry.uuid, f"{entry.password}\n")
        machine = {
            "uuid": entry.uuid,
            "name": entry.name,
            "driver": entry.driver,
            "address": entry.address,
            "port": entry.port,
            "username": entry.username,
            "password_file": f"{secrets.name}/{entry.uuid}",
            "project": entry.project,
            "user": entry.user,
        }
        machines.append(machine | dict(entry.options))
    _write_private(path, yaml.safe_dump({"machines": machines}, sort_keys=False))


def _write_private(path: Path, content: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
