"""Firings and their outcomes, for the tests of them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from compute_agent.contract.watchdogs import WatchdogDevice
from compute_agent.drivers.fake import NmiEffect
from compute_agent.drivers.models import DriverEvent, DriverEventKind
from tests.unit.agent.observer_bench import Bench


def run_bench(tmp_path: Path) -> Iterator[Bench]:
    """For a fixture."""
    bench = Bench(tmp_path / "journal.sqlite")
    bench.drain()
    yield bench
    bench.kill()


def make_watched(bench: Bench, action: str, effect: NmiEffect = NmiEffect.SURVIVE) -> str:
    return bench.make_server(effect=effect, watchdog=WatchdogDevice(model="i6300esb", expiry_action=action))


def fire(bench: Bench, server: str, **keywords: Any) -> None:
    bench.hypervisor.fire_watchdog(server, **keywords)
    bench.drain()


def tell(bench: Bench, server: str, word: str) -> None:
    """The event alone, with the platform's word."""
    bench.observer.enqueue(DriverEvent(DriverEventKind.WATCHDOG_FIRED, server, bench.clock.now(), word))
    bench.drain()


def list_fired(bench: Bench) -> list[SimpleNamespace]:
    return bench.events("server.watchdog.fired")


def list_outcomes(bench: Bench) -> list[SimpleNamespace]:
    return bench.events("server.watchdog.outcome")


def get_outcome(bench: Bench) -> SimpleNamespace:
    """The one outcome, of the one firing."""
    (fired,), (outcome,) = list_fired(bench), list_outcomes(bench)
    assert outcome.fired_event == fired.id
    return outcome


def list_types(bench: Bench, server: str) -> list[str]:
    return [event.type.removeprefix("server.") for event in bench.events("server.") if event.server == server]
