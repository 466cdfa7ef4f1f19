"""The base of everything that is sent: frozen, strict when sending, tolerant when receiving.

Constructing a model forbids unknown fields (a strict speaker); :meth:`WireModel.from_wire` ignores them (a tolerant
listener), so that a newer minor version of the other side can be understood.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """Base of everything that is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_wire(self) -> dict[str, Any]:
        """Plain JSON types only: times as RFC 3339 strings."""
        return self.model_dump(mode="json")

    @classmethod
    def from_wire(cls, body: Any) -> Self:
        """Read what another release may have sent.

        :raises pydantic.ValidationError: when a field is missing or does not have its type.
        """
        return cls.model_validate(body, extra="ignore")
