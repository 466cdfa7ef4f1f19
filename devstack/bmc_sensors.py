"""The sensors of a simulated BMC: commands of ipmi_sim_cmd(5) that make them, and the records by which a BMC tells of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SimulatedSensor:
    """A threshold sensor (IPMI 2.0, section 43.1). It reads ``factor`` · 10^``exponent`` per unit of its raw byte.

    ``raw`` is what it reads at first; at ``warning`` and ``critical`` (raw as well) and above, its machine is not well. ``sensor_type``
    and ``unit`` are numbers of tables 42-3 and 43-15.
    """

    number: int
    name: str
    sensor_type: int
    unit: int
    factor: int
    exponent: int
    raw: int
    warning: int
    critical: int

    def list_commands(self, controller: str) -> list[str]:
        """What makes it part of the controller at that address."""
        of_sensor = f"{controller} 0 {self.number}"
        bits = "000101010000000"
        return [
            f"sensor_add {of_sensor} 0x{self.sensor_type:02x} 0x01",
            f"sensor_set_value {of_sensor} 0x{self.raw:02x} 0",
            f"sensor_set_threshold {of_sensor} settable 111000 0xff 0x{self.critical:02x} 0x{self.warning:02x} 0 0 0",
            f"sensor_set_event_support {of_sensor} enable scanning per-state {bits} {bits} {bits} {bits}",
            f"main_sdr_add {controller} {' '.join(f'0x{byte:02x}' for byte in self.make_record())}",
        ]

    def make_record(self) -> bytes:
        """The full sensor record; the BMC numbers it itself."""
        name = self.name.encode("ascii")
        body = bytes([0x20, 0, self.number, 7, 1, 0x7F, 0x69, self.sensor_type, 0x01])
        body += bytes([0x80, 0x0A, 0x80, 0x0A, 0x38, 0x38])  # its events, and its three upper thresholds
        body += bytes([0, self.unit, 0, 0, self.factor, 0, 0, 0, 0, (self.exponent & 0x0F) << 4])
        body += bytes([0x01, self.raw, 0xFF, 0, 0xFF, 0])  # nominal reading, and its ranges
        body += bytes([0xFF, self.critical, self.warning, 0, 0, 0, 0, 0, 0, 0, 0, 0xC0 | len(name)])
        body += name
        return bytes([0, 0, 0x51, 0x01, len(body)]) + body


SENSORS = (
    SimulatedSensor(1, "CPU Temp", 0x01, 1, factor=1, exponent=0, raw=45, warning=85, critical=95),
    SimulatedSensor(2, "12V", 0x02, 4, factor=6, exponent=-2, raw=200, warning=215, critical=225),
    SimulatedSensor(3, "Fan 1", 0x04, 18, factor=100, exponent=0, raw=42, warning=240, critical=250),
)
"""45 °C, 12 V, 4200 RPM."""
