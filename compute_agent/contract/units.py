"""Units of the contract's numbers, as data: the published schemas tell them, and one that changes under the same name is seen.

A number without a unit is a count, or an ordinal.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

UNIT_KEY = "x-unit"
"""Where a schema says it."""


@dataclass(frozen=True)
class Unit:
    """What one of it is, as it is written: ``s``, ``B``, ``MiB``, ``%``. It belongs into a number's ``Annotated``."""

    symbol: str

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core_schema), UNIT_KEY: self.symbol}


SECONDS = Unit("s")
NANOSECONDS = Unit("ns")
BYTES = Unit("B")
BYTES_PER_SECOND = Unit("B/s")
MEBIBYTES = Unit("MiB")
GIBIBYTES = Unit("GiB")
PERCENT = Unit("%")
WATTS = Unit("W")

Seconds = Annotated[float, SECONDS]
Bytes = Annotated[int, BYTES]
