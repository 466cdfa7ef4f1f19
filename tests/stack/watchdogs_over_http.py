"""What tests with real guests and machines ask and read of watchdogs through HTTP. A device is written ``MODEL:EXPIRY_ACTION``."""

import json
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import libvirt

from compute_agent.contract.watchdogs import WatchdogDevice
from devstack.api_client import Answer
from devstack.guests import Guest
from devstack.services import wait_until
from devstack.stack import Stack
from tests.conformance import libvirt_watchdogs
from tests.stack.real_stack import TIMEOUT, Server, wait_for, wait_power_state

FIRED, OUTCOME, DRIFTED = "server.watchdog.fired", "server.watchdog.outcome", "server.watchdog.drifted"
Event = dict[str, Any]


def read_device(text: str) -> WatchdogDevice:
    model, _, expiry_action = text.partition(":")
    return WatchdogDevice(model=model, expiry_action=expiry_action)


def put(stack: Stack, server: Server, device: str, **fields: object) -> Answer:
    body = read_device(device).to_wire() | fields
    return stack.client.request("PUT", f"/v1/servers/{server.uuid}/watchdog", body=json.dumps(body).encode())


def ask(stack: Stack, server: Server, device: str | None, **fields: object) -> str:
    """Ask for this watchdog, or (None) for none; the action's id."""
    remove = f"/v1/servers/{server.uuid}/watchdog"
    answer = stack.client.request("DELETE", remove) if device is None else put(stack, server, device, **fields)
    assert answer.status == 202, answer.text
    return str(answer.body["id"])


def change(stack: Stack, server: Server, device: str | None, **expected: object) -> dict[str, Any]:
    """Ask for it and wait for the ending; the action."""
    code = "watchdog_set" if device is not None else "watchdog_removed"
    return wait_for(stack, ask(stack, server, device), **({"ending": "succeeded", "code": code} | expected))


def resume(stack: Stack, guest: Guest) -> None:
    """Ask for it, and wait until the guest does something again."""
    answer = stack.client.post(f"/v1/servers/{guest.uuid}/actions", {"kind": "resume"})
    assert answer.status == 202, answer.text
    wait_for(stack, answer.body["id"], ending="succeeded", code="resumed")
    wait_power_state(stack, guest, 1)
    assert guest.commands.run("echo goes on") == "goes on"


@dataclass(frozen=True)
class Seen:
    """What the API says that a server has."""

    configured: str | None
    live: str | None
    pending_restart: bool


def see(stack: Stack, server: Server) -> Seen:
    answer = stack.client.get(f"/v1/servers/{server.uuid}/watchdog")
    assert answer.status == 200, answer.text
    return Seen(_write(answer.body["configured"]), _write(answer.body["live"]), answer.body["pending_restart"])


def wait_seen(stack: Stack, guest: Guest, configured: str | None, live: str | None, *, pending_restart: bool = False) -> None:
    """The API shows it; and libvirt's own XMLs have the same models, configured and live."""
    expected = Seen(configured, live, pending_restart)
    last: list[Seen] = []

    def is_seen() -> bool:
        last[:] = [see(stack, guest)]
        return last[0] == expected

    try:
        wait_until(is_seen, TIMEOUT, f"{guest.name} to have {expected}")
    except TimeoutError as error:
        raise AssertionError(f"{error}; it has {last}") from error
    assert read_models(stack, guest) == (_find_model(configured), _find_model(live))


def wait_card(guest: Guest) -> None:
    """The guest itself sees an i6300esb: its kernel looks for one when it is told that something was plugged in."""
    wait_until(guest.commands.has_i6300esb, TIMEOUT, f"{guest.name} to see the card")


def read_models(stack: Stack, guest: Guest) -> tuple[str | None, str | None]:
    """In libvirt's XMLs: the configured model and the live one."""
    with stack.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        configured = ElementTree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).find("devices/watchdog")
        live = libvirt_watchdogs.find_live(domain) if domain.isActive() else None
    return tuple(None if element is None else element.get("model") for element in (configured, live))  # type: ignore[return-value]


def read_xmls(stack: Stack, guest: Guest) -> tuple[str, str]:
    """The configured one, and that of now."""
    with stack.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        return domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), domain.XMLDesc()


def find_address(stack: Stack, guest: Guest) -> str:
    """Where the live card is, as libvirt's XML says it."""
    return read_xmls(stack, guest)[1].partition("<watchdog")[2].partition("</watchdog>")[0].partition("<address")[2]


def configure_elsewhere(stack: Stack, guest: Guest, device: str | None) -> None:
    """Write the domain's configuration as another tool does, past crashcart."""
    with stack.libvirtd.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        libvirt_watchdogs.give_configured(connection, domain, None if device is None else read_device(device))


def list_events(stack: Stack, server: Server, event_type: str) -> list[Event]:
    """In the order in which they were recorded."""
    answer = stack.client.get(f"/v1/events?server={server.uuid}&type={event_type}&limit=200")
    assert answer.status == 200, answer.text
    found: list[Event] = answer.body["events"]
    return found


def wait_events(stack: Stack, server: Server, event_type: str, count: int = 1, timeout: float = TIMEOUT) -> list[Event]:
    """All that there are, as soon as there are so many."""

    def find() -> list[Event] | None:
        found = list_events(stack, server, event_type)
        return found if len(found) >= count else None

    return wait_until(find, timeout, f"{count} {event_type} of {server.name}", interval=0.1)


@dataclass(frozen=True)
class Firing:
    """One firing and what came of it."""

    fired: Event
    outcome: Event


def wait_firings(stack: Stack, server: Server, count: int = 1, timeout: float = TIMEOUT) -> list[Firing]:
    """Wait for so many outcomes; there must be exactly one for each firing, and no other."""
    outcomes = wait_events(stack, server, OUTCOME, count, timeout)
    firings = list_events(stack, server, FIRED)
    assert [event["id"] for event in firings] == [event["payload"]["fired_event"] for event in outcomes]
    return [Firing(fired, outcome) for fired, outcome in zip(firings, outcomes, strict=True)]


def assert_told(firing: Firing, device: str, driver_word: str, result: str) -> None:
    """It is told with the configured action and the platform's own word, and what came of it."""
    told, came = firing.fired["payload"], firing.outcome["payload"]
    assert firing.fired["severity"] == "warn"
    assert (f"{told['model']}:{told['expiry_action']}", told["driver_word"], told["observed_late"]) == (device, driver_word, False)
    assert (came["expiry_action"], came["result"], came["observed_late"]) == (told["expiry_action"], result, False), came


def _write(device: dict[str, str] | None) -> str | None:
    return None if device is None else f"{device['model']}:{device['expiry_action']}"


def _find_model(device: str | None) -> str | None:
    return None if device is None else read_device(device).model
