"""Finds the configured driver among the installed ones, at start: a wrong name or a missing library fails then, not at first use."""

from collections.abc import Callable
from importlib.metadata import entry_points

from oslo_config import cfg
from stevedore import DriverManager
from stevedore.exception import MultipleMatches, NoMatches

from compute_agent.contract.clock import Clock
from compute_agent.drivers.base import Driver

NAMESPACE = "crashcart.drivers"


class DriverNotLoaded(Exception):
    """The configured driver cannot be used; the text says why and what to do."""


def load_driver(name: str, conf: cfg.ConfigOpts, clock: Clock) -> Driver:
    """The driver that is installed under the entry point ``name``, made by its ``create_driver(conf, clock)``.

    :raises DriverNotLoaded: there is none of that name, it cannot be imported, or it refuses its configuration.
    """
    try:
        plugin: Callable[[cfg.ConfigOpts, Clock], object] = DriverManager(NAMESPACE, name).driver
    except NoMatches as error:
        installed = ", ".join(sorted(entry_points(group=NAMESPACE).names))
        raise DriverNotLoaded(f"there is no driver {name!r}; installed: {installed}") from error
    except MultipleMatches as error:
        raise DriverNotLoaded(f"more than one installed package brings a driver {name!r}: {error}") from error
    except ImportError as error:
        raise DriverNotLoaded(f"the driver {name!r} cannot be imported: {error}") from error
    try:
        driver = plugin(conf, clock)
    except (ValueError, cfg.Error) as error:
        raise DriverNotLoaded(f"the driver {name!r} refuses its configuration: {error}") from error
    if not isinstance(driver, Driver):
        raise DriverNotLoaded(f"the entry point {name!r} made a {type(driver).__name__}, not a Driver")
    return driver
