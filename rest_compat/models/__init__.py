"""The request and response models. Clients rely on their names and types."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

__all__ = ["Answer", "Done"]


class Answer(BaseModel):
    """Base class of response models, built from the attributes of service values."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    @classmethod
    def from_row(cls, row: object, **changes: Any) -> Self:  # noqa: ANN401 - a value of any field
        """Build the response from the attributes of a row; `changes` are the fields that differ from it."""
        same = {name: getattr(row, name) for name in cls.model_fields if name not in changes}
        return cls(**same, **changes)


class Done(Answer):
    """The request is done, or stored to be carried out."""

    success: Literal[True] = True
    message: str
