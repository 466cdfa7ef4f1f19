"""What can be said of a watchdog's change before its host is asked: out of what the host told of the server, and its platform of itself.

What nobody told is not held against anybody: the action is accepted then and ends with the host's answer.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from api_gateway.server_checks import Refused, Subject
from api_gateway.store import Connection, actions
from api_gateway.store.agents import AgentRow
from api_gateway.store.servers import ServerRow
from compute_agent.contract.models import ActionKind, Capabilities
from compute_agent.contract.watchdogs import Watchdog, WatchdogDevice, WatchdogModel

WATCHDOG_CHANGES = (ActionKind.SET_WATCHDOG, ActionKind.REMOVE_WATCHDOG)


class NotPossible(Exception):
    """This server cannot have what is asked for, whatever its state; the text says why, and what it can have instead."""


def find_watchdog(server: ServerRow) -> Watchdog | None:
    """What the server has by its host's last word; None: the host does not say."""
    return None if server.watchdog is None else Watchdog.from_wire(server.watchdog)


def list_platform_models(agent: AgentRow) -> tuple[WatchdogModel, ...]:
    """The watchdogs that the agent's platform knows; none where its driver has no capability for them."""
    capabilities = Capabilities.from_wire(agent.capabilities)
    return capabilities.watchdog_models if capabilities.watchdog else ()


def check_set(server: ServerRow, agent: AgentRow | None, arguments: Mapping[str, Any]) -> None:
    """
    :param arguments: those of the action: ``watchdog`` and ``replace``
    :raises NotPossible: the server or its platform cannot have this device.
    :raises Refused: it has a device that is in the way.
    """
    watchdog = find_watchdog(server)
    if watchdog is not None:
        _check_obstacle(server, watchdog)
    platform = () if agent is None else list_platform_models(agent)
    if platform:
        _check_device(WatchdogDevice.from_wire(arguments["watchdog"]), platform, None if watchdog is None else watchdog.models)
    present = None if watchdog is None else watchdog.configured or watchdog.live
    if present is not None and not arguments["replace"]:
        raise Refused(
            f"Instance {server.id} has a watchdog already: {present.model} with the expiry action {present.expiry_action}. "
            'Ask without "replace": false to replace it.'
        )


def check_removal(server: ServerRow, _agent: AgentRow | None, _arguments: Mapping[str, Any]) -> None:
    """:raises Refused: it has one that is not managed."""
    watchdog = find_watchdog(server)
    if watchdog is not None:
        _check_obstacle(server, watchdog)


def refuse_second_change(c: Connection, server: Subject) -> None:
    """:raises Refused: the server's watchdog is being changed."""
    earlier = actions.find_open_of_server(c, server.id, WATCHDOG_CHANGES)
    if earlier is not None:
        raise Refused(f"The watchdog of instance {server.id} is being changed by action {earlier.id}; wait until it has ended.")


def _check_obstacle(server: ServerRow, watchdog: Watchdog) -> None:
    """A device that is not managed is in the way where its host says that there can be none beside it; that of a chipset is in nobody's.

    :raises Refused: it is.
    """
    if watchdog.others and not watchdog.models:
        others = _enumerate(f"{device.model} ({device.expiry_action})" for device in watchdog.others)
        raise Refused(f"Instance {server.id} has a watchdog that is not managed here: {others}. Nothing is changed beside it.")


def _check_device(device: WatchdogDevice, platform: Collection[WatchdogModel], possible: Collection[str] | None) -> None:
    """
    :param possible: what the server can have; None: its host does not say
    :raises NotPossible: see there.
    """
    model = next((known for known in platform if known.model == device.model), None)
    choices = [known for known in platform if known.managed and (possible is None or known.model in possible)]
    if model is None:
        raise NotPossible(f"This server's platform knows no watchdog {device.model}. {_say_choices(choices)}")
    if not model.managed:
        raise NotPossible(f"The watchdog {model.model} is not managed: {model.note} {_say_choices(choices)}")
    if model not in choices:
        raise NotPossible(f"This server cannot have the watchdog {model.model}: {model.note} {_say_choices(choices)}")
    if device.expiry_action not in model.expiry_actions:
        raise NotPossible(
            f"The watchdog {model.model} of this server's platform has no expiry action {device.expiry_action}; "
            f"it has {_enumerate(model.expiry_actions)}."
        )


def _say_choices(choices: Collection[WatchdogModel]) -> str:
    return f"This server can have: {_enumerate(known.model for known in choices)}." if choices else "This server can have none."


def _enumerate(words: Iterable[str]) -> str:
    return ", ".join(words)
