"""The configuration files of one stack's services, and what clients need to find them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from devstack.ports import Ports

HOST = "devstack"
"""The name under which the stack's agent serves its servers."""
PROJECT = "demo"
USER = "demo"

Options = Mapping[str, Mapping[str, object]]
"""Section name -> option -> value."""


def write_agent_config(path: Path, *, transport_url: str, driver: Options, state_path: Path, extra: Options, host: str = HOST) -> None:
    """`driver` says which one it is and what it needs; `extra` wins over what is set here; the file holds the broker's password."""
    state_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(
        path,
        {
            "DEFAULT": {"host": host, "transport_url": transport_url},
            "agent": {"state_path": state_path, "default_project": PROJECT},
        },
        merge(driver, extra),
    )


def write_gateway_config(
    path: Path,
    *,
    transport_url: str,
    ports: Ports,
    state_path: Path,
    wake_socket: Path,
    extra: Options,
    database_url: str | None = None,
    stream_port: int | None = None,
) -> None:
    """`extra` wins over what is set here; the file holds the broker's password.

    :param database_url: by default a SQLite file under ``state_path``
    :param stream_port: by default that of ``ports``
    """
    state_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(
        path,
        {
            "DEFAULT": {"transport_url": transport_url},
            "database": {"connection": database_url or f"sqlite:///{state_path / 'gateway.sqlite'}"},
            "api": {"listen_host": "127.0.0.1", "listen_port": ports.api, "auth_strategy": "none", "default_project": PROJECT},
            "dispatcher": {"wake_socket": wake_socket},
            "recorder": {"verify_senders": True},
            "stream": {"listen_port": stream_port or ports.stream},
        },
        extra,
    )


def write_openrc(path: Path, ports: Ports) -> None:
    """What a shell sources so that today's clients find the API without a Keystone."""
    url = f"http://127.0.0.1:{ports.api}"
    # openstack refuses to run with a project or user and auth type none, nova without: so nova gets its own.
    path.write_text(
        f"""\
export OS_AUTH_TYPE=none
export OS_ENDPOINT={url}/v2.1
export CRASHCART_URL={url}
export CRASHCART_PROJECT={PROJECT}
export CRASHCART_USER={USER}
nova() {{
    OS_PROJECT_NAME={PROJECT} OS_USERNAME={USER} OS_AUTH_URL={url} command nova "$@"
}}
"""
    )


def merge(*layers: Options) -> dict[str, dict[str, object]]:
    """One set of options out of several; a later layer wins."""
    merged: dict[str, dict[str, object]] = {}
    for layer in layers:
        for section, options in layer.items():
            merged.setdefault(section, {}).update(options)
    return merged


def _write(path: Path, options: Options, extra: Options) -> None:
    lines: list[str] = []
    for section, values in merge(options, extra).items():
        lines += [f"[{section}]", *(f"{name} = {value}" for name, value in values.items()), ""]
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines))
