"""What entries of BMCs' logs mean: sentences as vendors write them, and nothing where they do not say it."""

import pytest

from compute_agent.drivers.models import DriverEventKind
from compute_agent.drivers.redfish.log_events import read_events

REBOOTED = (DriverEventKind.REBOOTED, "watchdog")
PANICKED = ((DriverEventKind.PANICKED, "os_critical_stop"),)


def fired(action: str) -> tuple[DriverEventKind, str]:
    return (DriverEventKind.WATCHDOG_FIRED, action)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"SensorType": "Watchdog", "Message": "Timer expired, status only (no action, no interrupt)"}, (fired("none"),)),
        ({"SensorType": "Watchdog 2", "Message": "Hard Reset"}, (fired("reset"), REBOOTED)),
        ({"SensorType": "Watchdog", "Message": "Power Down"}, (fired("poweroff"),)),
        ({"SensorType": "Watchdog", "Message": "Power Cycle"}, (fired("power_cycle"), REBOOTED)),
        ({"SensorType": "Watchdog", "Message": "Timer interrupt: NMI"}, (fired("inject-nmi"),)),
        ({"SensorType": "Watchdog", "Message": "Timer interrupt: SMI"}, ()),
        ({"SensorType": "Watchdog", "Message": "Watchdog is present"}, ()),
        ({"SensorType": "Watchdog", "Message": "Hard Reset", "EntryCode": "Deassert"}, ()),
        ({"MessageId": "OpenBMC.0.1.IPMIWatchdog", "MessageArgs": ["Power Cycle"]}, (fired("power_cycle"), REBOOTED)),
        ({"MessageId": "OpenBMC.0.1.IPMIWatchdog", "MessageArgs": ["Enabled"]}, ()),
        ({"Message": "The watchdog timer reset the system."}, (fired("reset"), REBOOTED)),
        ({"Message": "The watchdog timer powered off the system."}, (fired("poweroff"),)),
        ({"Message": "The watchdog timer power cycled the system."}, (fired("power_cycle"), REBOOTED)),
        ({"Message": "The watchdog timer expired."}, (fired("none"),)),
        ({"Message": "The BMC watchdog timer expired, the management controller was reset."}, ()),
        ({"Message": "Watchdog settings were changed."}, ()),
        ({"SensorType": "OS Stop/Shutdown", "Message": "Run-time Critical Stop"}, PANICKED),
        ({"SensorType": "OS Stop/Shutdown", "Message": "Error during system startup"}, PANICKED),
        ({"SensorType": "OS Stop/Shutdown", "Message": "OS graceful shutdown"}, ()),
        ({"SensorType": "OS Stop/Shutdown", "Message": "Asserted"}, ()),
        ({"Message": "A runtime critical stop occurred."}, PANICKED),
        ({"Message": "OS Critical Stop: the operating system has panicked"}, PANICKED),
        ({"Message": "Fan 3 is below its critical stop threshold"}, ()),
        ({"SensorType": "SystemBoot/Restart", "Message": "Initiated by warm reset"}, ((DriverEventKind.REBOOTED, "system_boot"),)),
        ({"SensorType": "BaseOSBoot/InstallationStatus", "Message": "C: boot completed"}, ((DriverEventKind.REBOOTED, "os_boot"),)),
        ({"SensorType": "BaseOSBoot/InstallationStatus", "Message": "Installation started"}, ()),
        ({"SensorType": "Power Supply / Converter", "Message": "Power supply lost"}, ()),
        ({"SensorType": 7, "Message": ["watchdog"], "MessageArgs": {"a": 1}, "MessageId": None}, ()),
        ({}, ()),
    ],
)
def test_an_entry_is_news_only_where_it_says_so(entry: dict[str, object], expected: object) -> None:
    assert read_events(entry) == expected
