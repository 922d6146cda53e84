"""What all answers have in common, and the shapes of the errors."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Answer", "Done", "Failure", "Invalid", "InvalidItem", "Refusal", "Responses"]

Responses = dict[int | str, dict[str, Any]]
"""Statuses, each with the model and the description of its answer, for the OpenAPI document."""


class Answer(BaseModel):
    """A part of an answer; made of the service's values by their attributes."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")


class Done(Answer):
    """What was asked for is done, or stored and will be carried out."""

    success: Literal[True] = True
    message: str


class Refusal(Answer):
    """Why a request was refused."""

    detail: str


class InvalidItem(Answer):
    """One thing wrong with a request: where, what, and a stable name for it."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(Answer):
    """Everything that is wrong with a request."""

    detail: list[InvalidItem]


class Failure(Answer):
    """A failure that is not the client's."""

    success: Literal[False] = False
    error: str
    detail: str = Field(description="An id under which the log tells more; with DEBUG the traceback.")
    timestamp: datetime
