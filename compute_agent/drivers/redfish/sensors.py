"""What a machine's chassis measure: the older ``Thermal`` and ``Power``, else the newer ``Sensors`` and ``EnvironmentMetrics``."""

from collections.abc import Iterator

from compute_agent.contract.diagnostics import Sensor, SensorKind
from compute_agent.drivers.redfish.connection import Visit
from compute_agent.drivers.redfish.documents import (
    Document,
    find_document,
    find_health,
    find_link,
    find_number,
    find_text,
    iterate_documents,
    list_links,
)

_MOST_CHASSIS = 4
_MOST_SENSORS = 128
_ABSENT = "Absent"
_UNITS = {"Cel": "°C", "RPM": "RPM", "{rev}/min": "RPM", "Percent": "%"}
_KINDS = {
    "Temperature": SensorKind.TEMPERATURE,
    "Voltage": SensorKind.VOLTAGE,
    "Current": SensorKind.CURRENT,
    "Rotational": SensorKind.FAN,
    "Power": SensorKind.POWER,
}


def read_sensors(visit: Visit, chassis: list[str]) -> tuple[list[Sensor], float | None]:
    """All sensors of the chassis at these paths, and the watts that they draw together (None: nobody says).

    :raises ExchangeError: the BMC does not answer any more.
    """
    sensors: list[Sensor] = []
    drawn: list[float] = []
    for path in chassis[:_MOST_CHASSIS]:
        document = visit.find(path)
        thermal, power = visit.find(find_link(document, "Thermal")), visit.find(find_link(document, "Power"))
        found = [*_read_thermal(thermal), *_read_power(power)]
        consumed = [find_number(control, "PowerConsumedWatts") for control in iterate_documents(power, "PowerControl")]
        watts = [value for value in consumed if value is not None]
        if not found:
            found = list(_read_newer(visit, document))
        if not watts:
            metrics = visit.find(find_link(document, "EnvironmentMetrics"))
            watts = [value for value in [find_number(metrics, "PowerWatts", "Reading")] if value is not None]
        sensors += found
        drawn += watts[:1]
    return sensors[:_MOST_SENSORS], sum(drawn) if drawn else None


def _read_thermal(thermal: Document | None) -> Iterator[Sensor]:
    for document in _iterate_present(thermal, "Temperatures"):
        yield from _make(document, SensorKind.TEMPERATURE, find_number(document, "ReadingCelsius"), "°C")
    for document in _iterate_present(thermal, "Fans"):
        unit = find_text(document, "ReadingUnits") or ""
        yield from _make(document, SensorKind.FAN, find_number(document, "Reading"), _UNITS.get(unit, unit))


def _read_power(power: Document | None) -> Iterator[Sensor]:
    for document in _iterate_present(power, "Voltages"):
        yield from _make(document, SensorKind.VOLTAGE, find_number(document, "ReadingVolts"), "V")
    for document in _iterate_present(power, "PowerSupplies"):
        watts = find_number(document, "PowerOutputWatts") or find_number(document, "LastPowerOutputWatts")
        yield from _make(document, SensorKind.POWER, watts, "W")


def _read_newer(visit: Visit, chassis: Document | None) -> Iterator[Sensor]:
    collection = visit.find(find_link(chassis, "Sensors"))
    for link in list_links(collection, "Members")[:_MOST_SENSORS]:
        document = visit.find(link)
        if document is not None and find_text(document, "Status", "State") != _ABSENT:
            unit = find_text(document, "ReadingUnits") or ""
            kind = _KINDS.get(find_text(document, "ReadingType") or "", SensorKind.OTHER)
            yield from _make(document, kind, find_number(document, "Reading"), _UNITS.get(unit, unit))
    if collection is None:
        subsystem = visit.find(find_link(chassis, "ThermalSubsystem"))
        metrics = visit.find(find_link(subsystem, "ThermalMetrics"))
        for document in iterate_documents(metrics, "TemperatureReadingsCelsius"):
            yield from _make(document, SensorKind.TEMPERATURE, find_number(document, "Reading"), "°C")
        for fan in list_links(visit.find(find_link(subsystem, "Fans")), "Members")[:_MOST_SENSORS]:
            document = visit.find(fan) or {}
            speed = find_document(document, "SpeedPercent")
            yield from _make(document, SensorKind.FAN, find_number(speed, "Reading"), "%")


def _iterate_present(document: Document | None, key: str) -> Iterator[Document]:
    return (member for member in iterate_documents(document, key) if find_text(member, "Status", "State") != _ABSENT)


def _make(document: Document, kind: SensorKind, value: float | None, unit: str) -> Iterator[Sensor]:
    name = find_text(document, "Name") or find_text(document, "DeviceName") or find_text(document, "Id") or find_text(document, "MemberId")
    if name is not None:
        yield Sensor(name=name, kind=kind, value=value, unit=unit, health=find_health(document, "Status", "Health"))
